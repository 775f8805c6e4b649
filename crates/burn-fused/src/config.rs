mod logits;

pub use logits::LogitsConfig;
pub use nf4::attention::AttentionConfig;
pub use nf4::rms_norm::RmsNormConfig;
