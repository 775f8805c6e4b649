//! A model, its adapters and the text they learn.

use std::fmt;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use burn_qlora::peft::{self, AdapterFiles};
use burn_qlora::{
    CausalLm, LoraConfig, LoraModel, QuantConfig, TokenBatch, attach_adapters, freeze_base,
};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, SamplingConfig};
use tokenizers::Tokenizer;

use crate::error::SessionError;
use crate::processor::Processor;

/// A model in 4 bits with adapters that learn a text.
pub struct Session {
    processor: Processor,
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
    /// The layers are quantized on the CPU, and what is uploaded is 4 bits; nothing is read back.
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
        processor: &Processor,
    ) -> Result<Self, SessionError> {
        processor.check()?;
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
        let device = processor.device().clone().autodiff();
        let mut model = Decoder::load(&checkpoint, &options, &device)?;
        let lora = LoraConfig::new(rank, 2.0 * rank as f64);
        attach_adapters(&mut model, &lora, 0)?;
        Ok(Self {
            processor: processor.clone(),
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
    /// The loss is all that is read from the device, when everything else of the step has been asked for.
    ///
    /// # Errors
    /// [`SessionError::Diverged`], [`SessionError::Gpu`].
    pub async fn step(&mut self) -> Result<f64, SessionError> {
        let row = &self.rows[self.steps % self.rows.len()];
        self.steps += 1;
        let model = self.model.take().expect("a step puts the model back");
        let count = row.len() - 1;
        let loss = model.loss_sum(&batch(row, &model.device())) / count as f64;
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimizer.step(self.learning_rate, model, gradients));
        let value = loss.try_into_scalar_async::<f32>().await;
        self.processor.check()?;
        let value = f64::from(value.map_err(|error| SessionError::Gpu(error.to_string()))?);
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
    /// A prompt without tokens or longer than the model's context; [`SessionError::Gpu`].
    pub async fn answer(&self, prompt: &str, tokens: usize) -> Result<String, SessionError> {
        let prompt = self.tokenizer.encode(prompt, true)?;
        let config = SamplingConfig::new().with_max_tokens(tokens);
        let go_on = |_| ControlFlow::Continue(());
        let model = self.model();
        let answer = model
            .generate_async(prompt.get_ids(), &config, 0, go_on)
            .await;
        self.processor.check()?;
        Ok(self.tokenizer.decode(&answer?.tokens, true)?)
    }

    /// Returns the adapters as the files of peft.
    ///
    /// # Errors
    /// [`LoraError::Diverged`](burn_qlora::LoraError::Diverged), [`SessionError::Gpu`].
    pub async fn adapter(&self) -> Result<AdapterFiles, SessionError> {
        let files = peft::to_files_async(self.model(), &self.lora, &self.name).await;
        self.processor.check()?;
        Ok(files?)
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
