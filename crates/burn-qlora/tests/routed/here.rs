//! The backend that runs what is recorded or sent.

use burn::tensor::Device;
use burn_router::CustomOpRegistry;

#[cfg(feature = "flex")]
pub use burn::backend::Flex as Here;
#[cfg(not(feature = "flex"))]
pub use burn::backend::NdArray as Here;

#[cfg(feature = "flex")]
pub fn device() -> Device {
    Device::flex()
}

#[cfg(not(feature = "flex"))]
pub fn device() -> Device {
    Device::ndarray()
}

/// Its operations.
pub fn operations() -> CustomOpRegistry<Here> {
    let mut registry = CustomOpRegistry::new();
    burn_qlora::register_ops(&mut registry);
    registry
}
