//! A model, its adapters and the text they learn.

use std::fmt;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use burn_qlora::peft::{self, AdapterFiles};
use burn_qlora::{
    CausalLm, LoraConfig, LoraError, LoraModel, QuantConfig, TokenBatch, attach_adapters,
    freeze_base,
};
use burn_qlora_llama::{Checkpoint, Decoder, DecoderError, LoadOptions, SamplingConfig};
use thiserror::Error;
use tokenizers::Tokenizer;

/// What can go wrong.
#[derive(Debug, Error)]
pub enum SessionError {
    /// Of the model's file, or of generation.
    #[error(transparent)]
    Model(#[from] DecoderError),
    /// Of the adapters.
    #[error(transparent)]
    Adapter(#[from] LoraError),
    /// Of the tokenizer.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[from] tokenizers::Error),
    /// There is nothing to learn.
    #[error(
        "the text has {tokens} tokens, and a row takes {context}: give a longer text or a shorter context"
    )]
    ShortText {
        /// Of the text.
        tokens: usize,
        /// Of a row.
        context: usize,
    },
    /// A setting that cannot be.
    #[error("a context of {context}: give 2 to {limit} tokens")]
    Context {
        /// As given.
        context: usize,
        /// The model's own.
        limit: usize,
    },
    /// Training has gone wrong.
    #[error("the loss of step {step} is {loss}: give a smaller learning rate")]
    Diverged {
        /// From 1.
        step: usize,
        /// In nats a token.
        loss: f64,
    },
}

/// A model in 4 bits with adapters that learn a text.
pub struct Session {
    model: Option<Decoder>,
    optimizer: ModuleOptimizer,
    learning_rate: f64,
    lora: LoraConfig,
    name: String,
    tokenizer: Tokenizer,
    /// Rows of `context` tokens of the text, taken in turn.
    rows: Vec<Vec<u32>>,
    steps: usize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Burn's optimizer cannot be shown.
        f.debug_struct("Session")
            .field("name", &self.name)
            .field("lora", &self.lora)
            .field("rows", &self.rows.len())
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Reads a model from the bytes of its GGUF file, `name` by name, brings its linear layers to NF4 with double quantization one
    /// by one, and puts fresh adapters of `rank` on all of them. A step will learn one row of `context` tokens of `text`.
    ///
    /// # Errors
    /// A file that is no model or a model that is not known, a rank, context or text that cannot be.
    pub fn open(
        name: &str,
        gguf: Vec<u8>,
        text: &str,
        context: usize,
        rank: usize,
        learning_rate: f64,
    ) -> Result<Self, SessionError> {
        let checkpoint = Checkpoint::of_gguf(name, gguf)?;
        let limit = checkpoint.config().max_position_embeddings;
        if !(2..=limit).contains(&context) {
            return Err(SessionError::Context { context, limit });
        }
        let tokenizer = checkpoint.tokenizer()?;
        let ids = tokenizer.encode(text, true)?.get_ids().to_vec();
        let rows: Vec<_> = ids.chunks_exact(context).map(<[u32]>::to_vec).collect();
        if rows.is_empty() {
            return Err(SessionError::ShortText {
                tokens: ids.len(),
                context,
            });
        }
        let options = LoadOptions::quantized(QuantConfig::default());
        let mut model = Decoder::load(&checkpoint, &options, &Device::flex().autodiff())?;
        let lora = LoraConfig::new(rank, 2.0 * rank as f64);
        attach_adapters(&mut model, &lora, 0)?;
        Ok(Self {
            model: Some(freeze_base(model)),
            optimizer: AdamWConfig::new().with_weight_decay(0.0).init(),
            learning_rate,
            lora,
            name: name.to_owned(),
            tokenizer,
            rows,
            steps: 0,
        })
    }

    /// Learns the next row, and returns its loss before that, in nats a token.
    ///
    /// # Errors
    /// [`SessionError::Diverged`].
    pub fn step(&mut self) -> Result<f64, SessionError> {
        let row = &self.rows[self.steps % self.rows.len()];
        self.steps += 1;
        let model = self.model.take().expect("a step puts the model back");
        let count = row.len() - 1;
        let loss = model.loss_sum(&batch(row, &model.device())) / count as f64;
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimizer.step(self.learning_rate, model, gradients));
        if value.is_finite() {
            Ok(value)
        } else {
            Err(SessionError::Diverged {
                step: self.steps,
                loss: value,
            })
        }
    }

    /// Returns how the model goes on from `prompt`, greedily, by at most so many tokens.
    ///
    /// # Errors
    /// A prompt without tokens or longer than the model's context.
    pub fn answer(&self, prompt: &str, tokens: usize) -> Result<String, SessionError> {
        let prompt = self.tokenizer.encode(prompt, true)?;
        let config = SamplingConfig::new().with_max_tokens(tokens);
        let answer = self
            .model()
            .generate(prompt.get_ids(), &config, 0, |_| ControlFlow::Continue(()))?;
        Ok(self.tokenizer.decode(&answer.tokens, true)?)
    }

    /// Returns the adapters as the files of peft.
    ///
    /// # Errors
    /// [`LoraError::Diverged`].
    pub fn adapter(&self) -> Result<AdapterFiles, SessionError> {
        Ok(peft::to_files(self.model(), &self.lora, &self.name)?)
    }

    /// Returns the number of rows that the text gave.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Returns the number of trained parameters.
    pub fn trainable(&self) -> usize {
        let adapters = self.model().lora_adapters().into_iter();
        adapters.map(|(_, branch)| Module::num_params(branch)).sum()
    }

    fn model(&self) -> &Decoder {
        self.model.as_ref().expect("a step puts the model back")
    }
}

/// Returns the batch in which every token of `row` but the first is to follow from those before it.
fn batch(row: &[u32], device: &Device) -> TokenBatch {
    let count = row.len() - 1;
    let tensor = |ids: &[u32]| {
        let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        Tensor::from_data(TensorData::new(ids, [1, count]), device)
    };
    TokenBatch {
        input_ids: tensor(&row[..count]),
        starts: None,
        targets: tensor(&row[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qlora_test_support::read_fixture;

    const TEXT: &str = "to be or not to be, that is the question: to be or not to be";

    fn gguf() -> Vec<u8> {
        read_fixture("families/qwen2/gguf/qwen2-f32.gguf")
    }

    fn open(gguf: Vec<u8>, text: &str, context: usize) -> Result<Session, SessionError> {
        Session::open("tiny.gguf", gguf, text, context, 8, 1e-2)
    }

    fn refusal(gguf: Vec<u8>, text: &str, context: usize) -> String {
        open(gguf, text, context).unwrap_err().to_string()
    }

    #[test]
    fn the_loss_falls_and_the_adapter_is_one_of_peft() {
        let mut session = open(gguf(), TEXT, 12).unwrap();
        let first: f64 = (0..session.rows()).map(|_| session.step().unwrap()).sum();
        for _ in 0..20 * session.rows() {
            session.step().unwrap();
        }
        let last: f64 = (0..session.rows()).map(|_| session.step().unwrap()).sum();
        assert!(last < 0.5 * first, "{first} before, {last} after");

        let dir = tempfile::tempdir().unwrap();
        let files = session.adapter().unwrap();
        std::fs::write(dir.path().join(peft::CONFIG_FILE), files.config).unwrap();
        std::fs::write(dir.path().join(peft::WEIGHTS_FILE), files.weights).unwrap();
        let mut again = open(gguf(), TEXT, 12).unwrap();
        peft::load(again.model.as_mut().unwrap(), dir.path()).unwrap();
        let answer = session.answer("to be", 8).unwrap();
        assert_eq!(again.answer("to be", 8).unwrap(), answer);
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_line() {
        let mut damaged = gguf();
        damaged.truncate(damaged.len() / 2);
        for (text, says) in [
            (refusal(damaged, TEXT, 12), "truncated or damaged"),
            (refusal(b"GGUF".to_vec(), TEXT, 12), "tiny.gguf"),
            (refusal(gguf(), TEXT, 1), "give 2 to"),
            (refusal(gguf(), "to", 12), "longer text"),
        ] {
            assert!(text.contains(says) && text.lines().count() == 1, "{text}");
        }
    }
}
