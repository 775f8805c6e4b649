//! QLoRA for Burn.
