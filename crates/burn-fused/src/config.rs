mod logits;

pub use logits::LogitsConfig;
