//! Fused training operations for Burn.
