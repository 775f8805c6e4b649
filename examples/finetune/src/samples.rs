//! What the model writes to given prompts while it is trained.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn_finetune::{Prompt, RowEncoder, TextEncoder, memory};
use burn_qlora_llama::{Decoder, SamplingConfig};
use serde::{Deserialize, Serialize};

use crate::opened_model::OpenedModel;
use crate::stop::Stop;

/// Prompts, and what it takes to let a model answer them.
pub struct Samples<'a> {
    prompts: Vec<Prompt>,
    texts: TextEncoder<'a>,
    stop: Stop,
    sampling: SamplingConfig,
}

/// A prompt and what the model wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The text that the model was given.
    pub prompt: String,
    /// What it wrote.
    pub text: String,
}

/// The samples after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleReport {
    /// Steps taken so far.
    pub step: usize,
    /// One for each prompt.
    pub samples: Vec<Sample>,
    /// Seconds that they took together.
    pub seconds: f64,
    /// Peak resident memory of the process so far, where the system tells.
    pub peak_rss_bytes: Option<u64>,
    /// What the device's allocator had reserved after them, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
}

impl<'a> Samples<'a> {
    /// Reads the prompts of a file, each to be answered by at most `max_tokens` tokens.
    ///
    /// # Errors
    /// A file that cannot be read, or has a row that is no prompt or leaves no room in the model's context.
    pub fn read(
        file: &Path,
        max_tokens: usize,
        opened: &'a OpenedModel,
        encoder: &RowEncoder<'_>,
    ) -> Result<Self> {
        let prompts = encoder.prompts(file).context("--sample-prompts")?;
        let context = opened.checkpoint.config().context_len();
        for (place, prompt) in prompts.iter().enumerate() {
            let tokens = prompt.ids.len();
            ensure!(
                (1..context).contains(&tokens),
                "--sample-prompts {}: prompt {} has {tokens} tokens, and the model takes 1 to {} before it writes; make it \
                 {}",
                file.display(),
                place + 1,
                context - 1,
                if tokens == 0 { "longer" } else { "shorter" }
            );
        }
        let stop = Stop::of(opened)?;
        Ok(Self {
            prompts,
            texts: opened.texts(),
            sampling: SamplingConfig::new()
                .with_max_tokens(max_tokens)
                .with_stop_tokens(Some(stop.tokens())),
            stop,
        })
    }

    /// Lets `model`, as it is after `step` steps, answer every prompt greedily; `None` when `interrupted` says so before the
    /// last is answered.
    ///
    /// # Errors
    /// Logits that are no numbers, a device or a tokenizer that fails.
    pub fn write(
        &self,
        model: &Decoder,
        step: usize,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<SampleReport>> {
        let start = Instant::now();
        let mut samples = Vec::with_capacity(self.prompts.len());
        for prompt in &self.prompts {
            let Some(text) = self.answer(model, prompt, interrupted)? else {
                return Ok(None);
            };
            let prompt = prompt.text.clone();
            samples.push(Sample { prompt, text });
        }
        Ok(Some(SampleReport {
            step,
            samples,
            seconds: start.elapsed().as_secs_f64(),
            peak_rss_bytes: memory::peak_rss_bytes(),
            device_bytes: memory::reserved_device_bytes(&model.device()),
        }))
    }

    fn answer(
        &self,
        model: &Decoder,
        prompt: &Prompt,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<String>> {
        let mut written = Vec::new();
        let mut given_up = false;
        let answer = model.generate(&prompt.ids, &self.sampling, 0, |token| {
            written.push(token);
            given_up = interrupted();
            let text = self.texts.decode(&written);
            let ended = text.is_ok_and(|text| self.stop.shown(&text).ended);
            if given_up || ended {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if given_up {
            return Ok(None);
        }
        let text = self.texts.decode(self.stop.answer(&answer.tokens))?;
        Ok(Some(self.stop.cut(&text).to_owned()))
    }
}
