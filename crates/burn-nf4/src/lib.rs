//! NF4 tensors for Burn.
