mod add_rms_norm;
mod attention;
mod cross_entropy;
mod rms_norm;
mod rope;
mod swiglu;

pub use add_rms_norm::{add_rms_norm, residual_rms_norm};
pub use attention::{causal_attention, packed_causal_attention};
pub use cross_entropy::{IGNORED, linear_cross_entropy};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use swiglu::swiglu;
