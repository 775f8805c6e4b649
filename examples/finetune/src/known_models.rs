//! The shapes of well-known models, to plan a run without their files.

use std::path::Path;

use anyhow::{Context, Result};
use burn_qlora_llama::DecoderConfig;
use serde_json::json;

/// A model as its public config.json describes it.
struct Shape {
    name: &'static str,
    model_type: &'static str,
    vocab: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    context: usize,
    window: Option<usize>,
    tied: bool,
}

/// The first LLaMA (arXiv 2302.13971, table 2), the models of the QLoRA paper.
const LLAMA: Shape = Shape {
    name: "llama-7b",
    model_type: "llama",
    vocab: 32_000,
    hidden: 4096,
    inner: 11_008,
    layers: 32,
    heads: 32,
    key_value_heads: 32,
    head_dim: 128,
    context: 2048,
    window: None,
    tied: false,
};

const LLAMA3: Shape = Shape {
    name: "llama3-8b",
    vocab: 128_256,
    inner: 14_336,
    key_value_heads: 8,
    context: 8192,
    ..LLAMA
};

const QWEN3: Shape = Shape {
    name: "qwen3-8b",
    model_type: "qwen3",
    vocab: 151_936,
    hidden: 4096,
    inner: 12_288,
    layers: 36,
    heads: 32,
    key_value_heads: 8,
    head_dim: 128,
    context: 40_960,
    window: None,
    tied: false,
};

/// The text part of Gemma 3.
const GEMMA3: Shape = Shape {
    name: "gemma3-4b",
    model_type: "gemma3_text",
    vocab: 262_208,
    hidden: 2560,
    inner: 10_240,
    layers: 34,
    heads: 8,
    key_value_heads: 4,
    head_dim: 256,
    context: 131_072,
    window: Some(1024),
    tied: true,
};

const SHAPES: [Shape; 13] = [
    LLAMA,
    Shape {
        name: "llama-13b",
        hidden: 5120,
        inner: 13_824,
        layers: 40,
        heads: 40,
        key_value_heads: 40,
        ..LLAMA
    },
    Shape {
        name: "llama-33b",
        hidden: 6656,
        inner: 17_920,
        layers: 60,
        heads: 52,
        key_value_heads: 52,
        ..LLAMA
    },
    Shape {
        name: "llama-65b",
        hidden: 8192,
        inner: 22_016,
        layers: 80,
        heads: 64,
        key_value_heads: 64,
        ..LLAMA
    },
    LLAMA3,
    Shape {
        name: "llama3-70b",
        hidden: 8192,
        inner: 28_672,
        layers: 80,
        heads: 64,
        ..LLAMA3
    },
    Shape {
        // Version 0.3, which has no window any more.
        name: "mistral-7b",
        model_type: "mistral",
        vocab: 32_768,
        inner: 14_336,
        key_value_heads: 8,
        context: 32_768,
        ..LLAMA
    },
    Shape {
        name: "qwen3-4b",
        hidden: 2560,
        inner: 9728,
        tied: true,
        ..QWEN3
    },
    QWEN3,
    Shape {
        name: "qwen3-14b",
        hidden: 5120,
        inner: 17_408,
        layers: 40,
        heads: 40,
        ..QWEN3
    },
    Shape {
        name: "qwen3-32b",
        hidden: 5120,
        inner: 25_600,
        layers: 64,
        heads: 64,
        ..QWEN3
    },
    GEMMA3,
    Shape {
        name: "gemma3-12b",
        hidden: 3840,
        inner: 15_360,
        layers: 48,
        heads: 16,
        key_value_heads: 8,
        ..GEMMA3
    },
];

/// The models of the QLoRA paper, by the paper's names for their sizes.
pub const OF_THE_PAPER: [(&str, &str); 4] = [
    ("7B", "llama-7b"),
    ("13B", "llama-13b"),
    ("33B", "llama-33b"),
    ("65B", "llama-65b"),
];

/// Returns the names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// Returns the model `name`.
///
/// # Errors
/// A name that is not one of [`names`].
pub fn config(name: &str) -> Result<DecoderConfig> {
    let shape = SHAPES.iter().find(|shape| shape.name == name);
    let shape = shape.with_context(|| format!("no shape of a model {name} is known"))?;
    let object = json!({
        "model_type": shape.model_type,
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "sliding_window": shape.window,
        "tie_word_embeddings": shape.tied,
    });
    let (config, _) = DecoderConfig::from_hf_json(&object.to_string(), Path::new(name))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_about_as_many_parameters_as_its_publisher_says() {
        let published = [
            ("llama-7b", 6.74),
            ("llama-13b", 13.0),
            ("llama-33b", 32.5),
            ("llama-65b", 65.3),
            ("llama3-8b", 8.03),
            ("llama3-70b", 70.6),
            ("mistral-7b", 7.25),
            ("qwen3-4b", 4.02),
            ("qwen3-8b", 8.19),
            ("qwen3-14b", 14.8),
            ("qwen3-32b", 32.8),
            ("gemma3-4b", 3.88),
            ("gemma3-12b", 11.8),
        ];
        assert!(names().eq(published.iter().map(|(name, _)| *name)));
        for (name, billions) in published {
            let config = config(name).unwrap();
            let heads = config.num_attention_heads + config.num_key_value_heads;
            let attention = 2 * heads * config.head_dim * config.hidden_size;
            let block = attention + 3 * config.intermediate_size * config.hidden_size;
            let tables = if config.tie_word_embeddings { 1 } else { 2 };
            let all = config.layers.len() * block + tables * config.vocab_size * config.hidden_size;
            let ratio = all as f64 / 1e9 / billions;
            assert!(
                (0.99..1.01).contains(&ratio),
                "{name}: {all} is {ratio} of {billions}e9"
            );
        }
    }

    #[test]
    fn the_models_of_the_paper_are_known() {
        for (_, name) in OF_THE_PAPER {
            assert_eq!(config(name).unwrap().max_position_embeddings, 2048);
        }
    }
}
