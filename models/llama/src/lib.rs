//! LLaMA for Burn.
