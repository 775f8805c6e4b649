mod attention;
mod logits;
mod rms_norm;

pub use attention::AttentionConfig;
pub use logits::LogitsConfig;
pub use rms_norm::RmsNormConfig;
