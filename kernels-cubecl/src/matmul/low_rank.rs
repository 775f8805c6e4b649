//! A quantized matrix with a low-rank one on top of it, `W + s·(A B)ᵀ`, multiplied as one: the shape of a LoRA layer
//! (QLoRA §3, equation 3).
//!
//! The product with `W` is any kernel's of [`matmul`](super); the thin products have kernels of their own, which read
//! operands of half precision where they lie, sum in f32, and add to a result in place. Each takes its factor as rows of the
//! layer's width, so that all loads are of neighbouring elements: `B` is one already, `A` is transposed, once a pass, unless it meets a few
//! rows.
//!
//! - `factors`: the low-rank matrix, checked
//! - `forward`: the product
//! - `backward`: its gradients
//! - `project`: `s·(x·Fᵀ)`, from a layer's width to the rank
//! - `gather`: `s·(x·A)` of a few rows, for several layers of one input
//! - `expand`: `y += t·F`, from the rank to a layer's width
//! - `accumulate`: `tᵀ·x`, the gradient of a factor
//! - `workspace`: the memory that the backward pass needs

mod accumulate;
mod backward;
mod expand;
mod factors;
mod forward;
mod gather;
mod project;
mod workspace;

pub use backward::{Gradients, backward, backward_factors};
pub(super) use factors::Factors;
pub use factors::LowRank;
pub(super) use forward::add_each;
pub use forward::forward;
pub use project::Projection;
pub use workspace::backward_workspace_bytes;
