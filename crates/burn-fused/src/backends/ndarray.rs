//! NdArray: the default bodies, composed of its own operations.

use burn_core::backend::NdArray;

use crate::ops::FusedOps;

impl FusedOps for NdArray {}
