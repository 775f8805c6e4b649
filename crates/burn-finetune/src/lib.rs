//! Fine-tuning of causal language models in Burn.
