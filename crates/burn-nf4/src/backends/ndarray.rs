//! NdArray: the default bodies, composed of its own products.

use burn_core::backend::NdArray;

use crate::ops::BlockwiseOps;

impl BlockwiseOps for NdArray {}
