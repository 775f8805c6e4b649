//! Fresh adapters as they are on a model.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use burn_qlora::{LoraConfig, Targets, TokenIndices};
use burn_qlora_llama::DecoderConfig;

/// What peft calls the embedding and the head, which have rows of tokens.
const TABLES: [&str; 2] = ["embed_tokens", "lm_head"];

/// Returns `lora` as it is on a model of these dimensions, with the rows of `tokens` trained.
///
/// # Errors
/// Blocks, layers or tokens that the model does not have.
pub fn on_model(lora: &LoraConfig, config: &DecoderConfig, tokens: &[u32]) -> Result<LoraConfig> {
    let mut lora = lora.clone();
    let paths = config.adaptable_paths();
    let [embedding, head] = TABLES;
    if let Targets::Names(names) = &lora.targets {
        let names_table = |table: &str| {
            let whole = |name: &String| name == table || name.ends_with(&format!(".{table}"));
            names.iter().any(whole)
        };
        ensure!(
            !names_table(embedding),
            "--target {embedding}: an embedding carries no adapter; name the head or linear layers of the blocks, and train rows of \
             both with --train-tokens or --add-tokens"
        );
        ensure!(
            tokens.is_empty() || !names_table(head),
            "--target {head}: a head of which rows are trained carries no adapter; leave {head} out, or do without --train-tokens and \
             --add-tokens"
        );
    }
    if let Some(exclude) = &lora.exclude {
        exclude.select(&paths).context("--exclude")?;
    }
    if let Some(blocks) = &lora.blocks {
        let count = config.layers.len();
        if let Some(beyond) = blocks.numbers.iter().find(|number| **number >= count) {
            bail!(
                "--layers {beyond}: the model has {count} blocks, from 0 to {}",
                count - 1
            );
        }
        // peft narrows lists of names down, not the word for all layers.
        if lora.targets == Targets::AllLinear {
            let paths = config.projection_paths();
            let names = paths.iter().filter_map(|path| path.rsplit('.').next());
            let names: BTreeSet<String> = names.map(str::to_owned).collect();
            lora.targets = Targets::Names(names.into_iter().collect());
        }
    }
    let vocab = config.vocab_size;
    let mut seen = BTreeSet::new();
    for token in tokens {
        ensure!(
            (*token as usize) < vocab,
            "--train-tokens {token}: the model has tokens from 0 to {}",
            vocab - 1
        );
        ensure!(seen.insert(token), "--train-tokens {token} comes twice");
    }
    let tables = match config.tie_word_embeddings {
        true => &TABLES[..1],
        false => &TABLES[..],
    };
    let tables = tables.iter();
    let indices = tables.map(|name| ((*name).to_owned(), tokens.to_vec()));
    let indices: TokenIndices = indices.collect();
    Ok(lora.with_trainable_token_indices(indices))
}
