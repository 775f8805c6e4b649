mod add_rms_norm;
mod attention;
mod cached_attention;
mod cross_entropy;
mod glu;
mod lora_cross_entropy;
mod matmul;
mod rms_norm;
mod rope;

pub use add_rms_norm::{add_rms_norm, residual_rms_norm};
pub use attention::{causal_attention, packed_causal_attention};
pub use cached_attention::{KeyValues, RotationAngles, cached_attention};
pub use cross_entropy::{IGNORED, linear_cross_entropy, token_cross_entropy};
pub use glu::{Activation, geglu, glu, swiglu};
pub use lora_cross_entropy::{lora_linear_cross_entropy, lora_token_cross_entropy};
pub use matmul::matmul;
pub use rms_norm::rms_norm;
pub use rope::rope;
