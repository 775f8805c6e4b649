//! LibTorch: the default bodies, composed of its own operations.

use burn_core::backend::LibTorch;

use crate::ops::FusedOps;

impl FusedOps for LibTorch {}
