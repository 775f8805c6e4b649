use std::path::PathBuf;

use anyhow::{Result, bail};
use burn_qlora_llama::SamplingConfig;

use super::model::Model;
use crate::flags::GenerateFlags;

/// `finetune generate`.
#[derive(Debug)]
pub struct GenerateRun {
    /// The model.
    pub model: Model,
    /// peft directory of its adapter.
    pub adapter: Option<PathBuf>,
    /// The text to go on from.
    pub input: Input,
    /// The choice of tokens, and their number.
    pub sampling: SamplingConfig,
    /// Seed of the sampling.
    pub seed: u64,
    /// The most tokens that are guessed ahead; `None` for no guesses.
    pub lookup: Option<usize>,
}

/// The text that the model goes on from.
#[derive(Debug)]
pub enum Input {
    /// A prompt to continue.
    Prompt(String),
    /// The turns of a chat, read from stdin.
    Chat {
        /// The system prompt that it begins with.
        system: Option<String>,
    },
}

impl GenerateRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// Neither a prompt nor a chat, and as [`Model`]'s.
    pub fn resolve(flags: GenerateFlags) -> Result<Self> {
        let input = match flags.prompt {
            Some(prompt) => Input::Prompt(prompt),
            None if flags.chat => Input::Chat {
                system: flags.system,
            },
            None => bail!("nothing to continue; give --prompt TEXT, or --chat to talk"),
        };
        Ok(Self {
            input,
            model: Model::resolve(flags.model.base)?.with_kv_cache(&flags.kv_cache)?,
            adapter: flags.model.adapter,
            sampling: SamplingConfig::new()
                .with_max_tokens(flags.max_tokens)
                .with_temperature(flags.temperature as f32)
                .with_top_k(flags.top_k)
                .with_top_p(flags.top_p.map(|p| p as f32))
                .with_min_p(flags.min_p.map(|p| p as f32))
                .with_repetition_penalty(flags.repetition_penalty as f32),
            seed: flags.seed,
            lookup: flags.lookup,
        })
    }
}
