//! Burn's tensors as operands and results of kernels that do not know Burn: what the backend adapters of extensions share.
//!
//! - `autodiff`: operations with several results in the graph of gradients
//! - [`flex`]: the values of Flex's tensors, and tensors of values
//! - [`cubecl`]: CubeCL's handles of tensors, and tensors of a kernel's results
//! - `router`: operations as custom operations of Burn's IR, for remote devices and captures
//! - [`with_element!`]: from a dtype to the element type of the CPU's kernels
//! - [`served_devices!`], [`UnservedDevice`]: the check that an extension was built for a device

#[cfg(feature = "autodiff")]
pub mod autodiff;
#[cfg(feature = "cubecl-backend")]
pub mod cubecl;
mod element;
#[cfg(feature = "flex")]
pub mod flex;
#[cfg(feature = "router")]
pub mod router;
mod served;

#[doc(hidden)]
pub use burn_core::tensor::{DType, bf16, f16};
pub use served::UnservedDevice;

/// Compiles and runs the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
