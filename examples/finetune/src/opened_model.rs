//! An opened model: its files are checked, its tokenizer is ready; its weights are loaded on demand.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, ensure};
use burn::tensor::Device;
use burn_finetune::{
    ChatTemplate, Dataset, DatasetBuilder, FinetuneError, Moment, RowEncoder, TextEncoder, Told,
    memory,
};
use burn_paged::Budget;
use burn_qlora::peft::Adapter;
use burn_qlora::{LoftqReport, LoraConfig, loftq_init};
use burn_qlora_llama::memory::ProjectionFormats;
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, SpecialTokens, Weights};
use tokenizers::{AddedToken, Tokenizer};

use crate::console::{say, tell};
use crate::device::DeviceName;
use crate::flags::Init;
use crate::plan::{Planned, asking_peak};
use crate::progress::human_bytes;
use crate::run::{DataFiles, Model, RowLimits, Stored, Tokens, Training, WeightPaging};
use crate::{fresh_adapters, progress, report, source};

/// A model on disk with all that is needed to turn text into tokens and back.
pub struct OpenedModel {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its special tokens.
    pub special: SpecialTokens,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
    options: LoadOptions,
    paging: WeightPaging,
    device_name: DeviceName,
    /// The ids of the tokens that it got beside those of its files.
    pub added: Vec<u32>,
}

/// Tokens that a model gets beside those of its files.
#[derive(Clone, Copy)]
pub enum MoreTokens<'a> {
    /// Those that its adapter brings, if it has one.
    OfAdapter(Option<&'a Path>),
    /// These, as special tokens.
    New(&'a [String]),
}

impl MoreTokens<'_> {
    /// Adds them to a model's vocabulary, and returns their ids.
    ///
    /// # Errors
    /// Tokens that cannot be added; an adapter that cannot be read.
    pub fn add_to(self, checkpoint: &mut Checkpoint) -> Result<Vec<u32>> {
        Ok(match self {
            Self::OfAdapter(None) => Vec::new(),
            Self::OfAdapter(Some(path)) => {
                let adapter = checkpoint.open_adapter(path)?;
                checkpoint.add_tokens_of(&adapter)?
            }
            Self::New(tokens) => {
                let tokens = tokens.iter();
                // Found as they are written, whatever the tokenizer makes of other text, and shown where the model writes them.
                let plain =
                    |token: &String| AddedToken::from(token.as_str(), false).normalized(false);
                let tokens = tokens.map(plain);
                let tokens: Vec<AddedToken> = tokens.collect();
                checkpoint.add_tokens(&tokens).context("--add-tokens")?
            }
        })
    }
}

impl OpenedModel {
    /// Opens the model, fetching it if need be, with `tokens` in its vocabulary. `trained` is the form of the weights that its
    /// adapter was trained on, if that is known.
    ///
    /// # Errors
    /// A model that cannot be found, read or used, or that lacks a tokenizer; tokens that cannot be added; a template that
    /// cannot be read or is none; a block size that does not exist.
    pub fn open(model: &Model, trained: Option<Weights>, tokens: MoreTokens<'_>) -> Result<Self> {
        let mut checkpoint = source::open(&model.name)?;
        let added = tokens.add_to(&mut checkpoint)?;
        let special = checkpoint.special_tokens()?;
        let (source, named) = match &model.chat_template {
            Some(given) => (Some(given.source()?), given.to_string()),
            None => (
                checkpoint.chat_template()?,
                format!("model {}", checkpoint.path().display()),
            ),
        };
        let template = source
            .map(|source| ChatTemplate::new(&source, special_variables(&special)))
            .transpose()
            .context(named)?;
        let stored = Stored::of(&checkpoint);
        let weights = model.quantization.weights(stored, trained)?;
        if weights == Weights::Kept {
            checkpoint.stored_formats().context("--quant keep")?;
        }
        Ok(Self {
            tokenizer: checkpoint.tokenizer()?,
            checkpoint,
            special,
            template,
            options: LoadOptions::new(weights)
                .with_compute_dtype(model.compute_dtype)
                .with_kv_cache_dtype(model.kv_cache_dtype),
            paging: model.paging.clone(),
            device_name: model.device_name,
            added,
        })
    }

    /// Shows the chat template the date and time `now` in place of the clock's.
    #[must_use]
    pub fn with_now(mut self, now: Moment) -> Self {
        self.template = self.template.map(|template| template.with_now(now));
        self
    }

    /// Returns fresh adapters as they are on this model, with the rows of the tokens that it got and of those that `tokens` names.
    ///
    /// # Errors
    /// Layers or tokens that it does not have.
    pub fn fresh_adapters(&self, lora: &LoraConfig, tokens: &Tokens) -> Result<LoraConfig> {
        let tokens = [tokens.trained.as_slice(), &self.added].concat();
        fresh_adapters::on_model(lora, self.checkpoint.config(), &tokens)
    }

    /// Returns the files of a tokenizer that has the tokens it got; none where it got none.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn tokenizer_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        if self.added.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.checkpoint.tokenizer_files()?)
    }

    /// Returns what turns examples into rows within `limits`.
    ///
    /// # Errors
    /// A `--seq-len` beyond the model's context.
    pub fn encoder(&self, limits: RowLimits) -> Result<RowEncoder<'_>> {
        let config = self.checkpoint.config();
        Ok(RowEncoder {
            tokenizer: &self.tokenizer,
            template: self.template.as_ref(),
            eos: self.texts().eos,
            vocab_size: Some(config.vocab_size),
            learn: limits.learn,
            max_len: limits.seq_len(config.context_len())?,
            truncate: limits.truncate,
        })
    }

    /// Reads data files into rows of tokens, fetching them if need be, and tells what was left out and what the user should
    /// hear of the rows.
    ///
    /// # Errors
    /// A file that cannot be read or has a row that cannot be used, by its place.
    pub fn dataset(&self, files: &DataFiles, encoder: &RowEncoder<'_>) -> Result<Dataset> {
        self.dataset_in(&std::env::temp_dir(), files, encoder)
    }

    /// Reads data files as [`dataset`](Self::dataset) does. What is too much for memory goes to the folder `dir`.
    ///
    /// # Errors
    /// As for that.
    pub fn dataset_in(
        &self,
        dir: &Path,
        files: &DataFiles,
        encoder: &RowEncoder<'_>,
    ) -> Result<Dataset> {
        let mut builder = DatasetBuilder::in_dir(dir);
        builder
            .read(files.sources()?, encoder)
            .map_err(|error| self.in_context(error))?;
        let data = builder.finish()?;
        tell(&data);
        Ok(data)
    }

    /// Adds that the model could not take rows whole that are beyond its context.
    fn in_context(&self, error: FinetuneError) -> Error {
        let context = self.checkpoint.config().context_len();
        match error {
            FinetuneError::TooLong { longest, .. } if longest > context => anyhow!(
                "{error}; the model's context is {context} tokens, so --seq-len cannot be more"
            ),
            other => other.into(),
        }
    }

    /// Returns what turns texts into the model's tokens.
    pub fn texts(&self) -> TextEncoder<'_> {
        TextEncoder {
            tokenizer: &self.tokenizer,
            eos: self.special.eos.as_ref().map(|token| token.id),
        }
    }

    /// Reads data files as [`dataset`](Self::dataset) does, as `training` trains on them: without the share that is held out,
    /// and packed into rows where it says so.
    ///
    /// # Errors
    /// As for that; a share of a single example.
    pub fn training_data(
        &self,
        files: &DataFiles,
        held_out: Option<f64>,
        training: &Training,
    ) -> Result<Dataset> {
        let encoder = self.encoder(training.limits)?;
        let data = self.dataset(files, &encoder)?;
        let data = match held_out {
            Some(share) => data.split(share, training.seed())?.train,
            None => data,
        };
        Ok(if training.packing {
            data.packed(encoder.max_len)?
        } else {
            data
        })
    }

    /// Returns how the weights are loaded.
    pub fn weights(&self) -> Weights {
        self.options.weights
    }

    /// Says what it costs that weights are quantized which were quantized before, if they are.
    pub fn tell_of_second_quantization(&self) {
        let Weights::Quantized(config) = self.weights() else {
            return;
        };
        let formats = self.checkpoint.block_formats();
        if formats.is_empty() {
            return;
        }
        let (why, way_out) = match self.checkpoint.unserved_blocks() {
            Some((tensor, format)) => (
                format!(", for there are no kernels for the {format} of {tensor}"),
                "a file without such blocks",
            ),
            None => (String::new(), "--quant keep"),
        };
        tell!(
            "warning: {}: its weights are stored as {} and are quantized a second time, to {}{why}: what is lost adds up, and \
             the model is worse than either alone; {way_out} avoids it, and so do a 16-bit checkpoint of the same model and \
             --quant none, which takes 32 or 16 bits a weight in memory",
            report::words(&self.checkpoint.path().display().to_string()),
            formats.join(", "),
            config.codebook
        );
    }

    /// Says what it means that a head is adapted which is the embedding, if that is so.
    ///
    /// # Errors
    /// Layers that it does not have.
    pub fn tell_of_tied_head(&self, lora: &LoraConfig) -> Result<()> {
        let config = self.checkpoint.config();
        let head = config.head_path();
        let (_, adapted) = lora.of_layers_and_head(&config.projection_paths(), Some(head))?;
        if config.tie_word_embeddings && adapted.is_some() {
            tell!(
                "warning: {}: its head is its embedding, and the adapter on {head} changes the head alone; export writes a head of its \
                 own beside the embedding, and peft's merge_and_unload would change both",
                report::words(&self.checkpoint.path().display().to_string())
            );
        }
        Ok(())
    }

    /// Returns the formats of the weights once they are loaded. Of a model that is 4-bit already one matrix is read, or each
    /// where they are to be kept.
    ///
    /// # Errors
    /// A matrix that cannot be read; nothing that could be kept.
    pub fn quantization(&self) -> Result<ProjectionFormats> {
        Ok(match self.weights() {
            Weights::Quantized(config) => ProjectionFormats::Same(config),
            Weights::Dense | Weights::Trainable => ProjectionFormats::Dense,
            Weights::AsStored => self.checkpoint.stored_quantization()?.into(),
            Weights::Kept => ProjectionFormats::Stored(self.checkpoint.stored_formats()?),
        })
    }

    /// Returns what a plan for it needs to know.
    ///
    /// # Errors
    /// As for [`quantization`](Self::quantization).
    pub fn planned(&self) -> Result<Planned> {
        Ok(Planned {
            name: self.checkpoint.path().display().to_string(),
            config: self.checkpoint.config().clone(),
            quantization: self.quantization()?,
        })
    }

    /// Loads the weights onto a device, `budget` of those that are packed to stay there.
    ///
    /// # Errors
    /// Weights that are missing, damaged or cannot be had in the wanted format or dtype; pages that cannot be written; none that
    /// are packed where they are to be paged.
    pub fn load(&self, device: &Device, budget: Budget) -> Result<Decoder> {
        let pages = self.paging.open(budget)?;
        let spinner = progress::spinner(format!("load {}", self.checkpoint.path().display()));
        let llama = match &pages {
            Some(pages) => {
                Decoder::load_paged(&self.checkpoint, &self.options, device, pages.clone())?
            }
            None => Decoder::load(&self.checkpoint, &self.options, device)?,
        };
        spinner.finish_and_clear();
        if let Some(pages) = pages {
            let report = pages.take_report();
            ensure!(
                report.weight_bytes > 0,
                "--weights-budget {}: no weight of {} is in 4 or 8 bits, and only those are paged; see --quant",
                self.paging.budget,
                self.checkpoint.path().display()
            );
            say!(
                "{} of {} of packed weights stay in memory, the others are read at every use",
                human_bytes(report.resident_bytes),
                human_bytes(report.weight_bytes)
            );
        }
        Ok(llama)
    }

    /// Loads the weights onto a device, to be asked and not to be trained, with as much of them there as fits where that is left
    /// to the program.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_to_ask(&self, device: &Device) -> Result<Decoder> {
        let program = memory::rss_bytes().unwrap_or(0);
        let budget = self.paging.decide(memory::available_bytes(), |budget| {
            let dtype = self.options.compute_dtype;
            let peak = asking_peak(&self.planned()?, self.device_name, dtype, budget)?;
            Ok(peak.saturating_sub(program))
        })?;
        self.load(device, budget)
    }

    /// Checks that fresh adapters can start on this model as `init` says.
    ///
    /// # Errors
    /// LoftQ for weights that were quantized before.
    pub fn check_init(&self, init: Init) -> Result<()> {
        match init {
            Init::Zero => Ok(()),
            Init::Loftq => {
                let stored = self.checkpoint.check_full_precision();
                stored.context("--init loftq makes up for what 4 bits lose")
            }
        }
    }

    /// Sets the adapters of `model` to what its 4-bit weights lost of those on disk.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn fit_adapters(&self, model: &mut Decoder, seed: u64) -> Result<LoftqReport> {
        let spinner = progress::spinner("fit the adapters to what 4 bits lost".into());
        let report = loftq_init(model, seed, |path, shape| {
            let values = self
                .checkpoint
                .read_f32(&format!("{path}.weight"), &shape)?;
            Ok::<_, Error>(values)
        })?;
        spinner.finish_and_clear();
        Ok(report)
    }

    /// Loads the weights and puts an adapter on them, for everything but training.
    ///
    /// # Errors
    /// As [`load`](Self::load), and an adapter that is damaged or for another model.
    pub fn load_with_adapter(&self, adapter: Option<&Path>, device: &Device) -> Result<Decoder> {
        let mut model = self.load_to_ask(device)?;
        if let Some(adapter) = adapter {
            open_adapter(adapter, &self.checkpoint)?.attach(&mut model)?;
        }
        Ok(model)
    }
}

/// Opens an adapter for a model, and says what a user should know about it.
///
/// # Errors
/// A path where there is none; one that cannot be read or computed.
pub fn open_adapter(path: &Path, model: &Checkpoint) -> Result<Adapter> {
    let adapter = model.open_adapter(path)?;
    for warning in adapter.warnings() {
        tell!("warning: {}", report::words(warning));
    }
    Ok(adapter)
}

/// Tells what was left out of a data set, and what the user should hear of its rows.
pub fn tell(data: &Dataset) {
    let counts = data.counts();
    tell_all(counts.dropped.iter().chain(&counts.warnings));
}

/// Tells what the user should hear of data.
pub fn tell_all<'a>(all: impl IntoIterator<Item = &'a Told>) {
    for told in all {
        tell!("warning: {}", report::words(&told.line()));
    }
}

/// Returns the special tokens as chat templates know them.
fn special_variables(special: &SpecialTokens) -> BTreeMap<String, String> {
    [
        ("bos_token", &special.bos),
        ("eos_token", &special.eos),
        ("unk_token", &special.unk),
        ("pad_token", &special.pad),
    ]
    .into_iter()
    .filter_map(|(name, token)| Some((name.to_string(), token.as_ref()?.text.clone())))
    .collect()
}
