//! A quantized matrix with a low-rank one on top of it, `W + s·(A B)ᵀ`, multiplied as one: the shape of a LoRA layer
//! (QLoRA §3, equation 3).
//!
//! `x` is packed once for both, and the low-rank product joins the sum of the quantized one before it is rounded. The backward
//! pass needs nothing of the forward pass but `x`.
//!
//! - `factors`: the low-rank matrix
//! - `layers`: the layers of one input
//! - `forward`: the product, and the projection of rows onto a factor
//! - `backward`: its gradients
//! - `workspace`: the memory that both need

mod backward;
mod factors;
mod forward;
mod layers;
mod workspace;

pub use backward::{Gradients, LayersGradients, backward};
pub use factors::LowRank;
pub use forward::forward;
pub use layers::Layer;
