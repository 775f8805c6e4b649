//! LibTorch: the default bodies, composed of its own products.

use burn_core::backend::LibTorch;

use crate::ops::BlockwiseOps;

impl BlockwiseOps for LibTorch {}
