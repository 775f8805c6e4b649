//! Every operation against the same computation composed of Burn's tensor operations and
//! differentiated by Burn's autodiff, on every device the features enable.

#[cfg(not(feature = "autodiff"))]
compile_error!("the tests need the feature autodiff");

mod add_rms_norm;
mod attention;
mod common;
mod cross_entropy;
mod glu;
mod linear;
mod lora_cross_entropy;
mod matmul;
mod precision;
mod reproducible;
mod rms_norm;
mod rope;
