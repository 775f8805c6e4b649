mod attention;
mod rms_norm;

pub use attention::AttentionConfig;
pub use rms_norm::RmsNormConfig;
