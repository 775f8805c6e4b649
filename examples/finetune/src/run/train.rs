use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use burn_finetune::{Dataset, ExampleKind, GradientDtype, Objective, Order, TrainConfig};
use burn_paged::Budget;
use burn_qlora::{Blocks, Checkpointing, LoraConfig, Targets};
use burn_qlora_llama::Weights;

use super::data_files::DataFiles;
use super::learning_rate::LearningRate;
use super::model::Model;
use super::objective;
use super::optimizer::Optimizer;
use super::rows::RowLimits;
use super::tokens::Tokens;
use crate::flags::{Init, PlanFlags, QuantName, TrainFlags};
use crate::opened_model::MoreTokens;
use crate::{tensorboard, trained_on};

/// Most tokens of an answer to a sample prompt, where the user does not say.
const SAMPLE_TOKENS: usize = 64;

/// `finetune train`.
#[derive(Debug)]
pub struct TrainRun {
    /// The run itself.
    pub training: Training,
    /// The rows to train on.
    pub data: DataFiles,
    /// The rows to measure the loss on.
    pub eval_data: Option<DataFiles>,
    /// The share of the rows to train on that is held out to measure the loss on.
    pub eval_split: Option<f64>,
    /// Everything that is written.
    pub output: Output,
    /// What gradients are rounded to on their way between ranks.
    pub allreduce_dtype: GradientDtype,
    /// What stood behind `finetune train`, with the flags of a config file.
    pub arguments: Vec<OsString>,
}

/// `finetune plan`.
#[derive(Debug)]
pub struct PlanRun {
    /// The run to plan.
    pub training: Training,
    /// The model that it is planned for.
    pub model: PlannedModel,
    /// What its time is told from.
    pub rates: Rates,
}

/// Rates from which the time of a step is told.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Whether those that are not given are measured.
    pub measure: bool,
    /// 10^9 operations of matrix products a second.
    pub compute: Option<f64>,
    /// Bytes a second.
    pub read: Option<u64>,
}

impl Rates {
    /// Returns whether the time is to be told.
    pub fn are_wanted(&self) -> bool {
        self.measure || self.compute.is_some() || self.read.is_some()
    }
}

/// The model that a run is planned for.
#[derive(Debug)]
pub enum PlannedModel {
    /// The one that the run would train.
    Files {
        /// The rows it would train on, if they are known.
        data: Option<DataFiles>,
        /// The share of their examples that is held out.
        eval_split: Option<f64>,
    },
    /// A well-known one by its name, without its files.
    Known(String),
}

/// A training run, as `train` does it and `plan` plans it.
#[derive(Debug)]
pub struct Training {
    /// The model.
    pub model: Model,
    /// The limits of the rows.
    pub limits: RowLimits,
    /// Whether several examples share a row.
    pub packing: bool,
    /// The adapters to start from.
    pub adapter: Adapter,
    /// How they start if they are fresh.
    pub init: Init,
    /// The tokens whose rows are trained beside them, if they are fresh.
    pub tokens: Tokens,
    /// The optimizer's state.
    pub optimizer: Optimizer,
    /// The values kept for the backward pass.
    pub checkpointing: Checkpointing,
    /// The length of the run.
    length: Length,
    learning_rate: LearningRate,
    /// The numbers of the run, except for its steps, which follow from `length` and the number of rows, and for the
    /// learning rate, which follows from them.
    config: TrainConfig,
}

/// The adapters to start from.
#[derive(Debug)]
pub enum Adapter {
    /// Fresh ones.
    Fresh(Box<LoraConfig>),
    /// The adapters of a peft directory.
    Trained(PathBuf),
}

/// The length of a run.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// A number of optimizer steps.
    Steps(usize),
    /// A number of passes over the data.
    Epochs(f64),
}

/// Everything that a run writes.
#[derive(Debug)]
pub struct Output {
    /// The run's directory.
    pub dir: PathBuf,
    /// Whether to go on from the last checkpoint in it.
    pub resume: bool,
    /// The step log.
    pub log_json: Option<PathBuf>,
    /// The folder of the event files.
    pub tensorboard: Option<PathBuf>,
    /// The prompts that the model answers on the way.
    pub sample_prompts: Option<SamplePrompts>,
    /// Steps between evaluations; `None` for one at the end.
    pub eval_every: Option<usize>,
    /// Steps between checkpoints; `None` for one at the end.
    pub save_every: Option<usize>,
    /// Checkpoints that stay; `None` for all.
    pub save_total: Option<usize>,
    /// Whether the best step is kept, and ends the run.
    pub keep_best: bool,
    /// Evaluations without a lower loss after which the run stops.
    pub early_stop: Option<usize>,
}

impl Adapter {
    /// Returns the form of the weights that it was trained on, if a run says so.
    pub fn trained_on(&self) -> Option<Weights> {
        match self {
            Self::Fresh(_) => None,
            Self::Trained(path) => trained_on::of_adapter(path),
        }
    }
}

/// The prompts that the model answers while it is trained.
#[derive(Debug)]
pub struct SamplePrompts {
    /// Their file.
    pub file: PathBuf,
    /// Most tokens of an answer.
    pub max_tokens: usize,
}

impl TrainRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// No data or no output directory, evaluations without data for them, and as [`Training`]'s.
    pub fn resolve(mut flags: TrainFlags) -> Result<Self> {
        let kind = examples(&flags)?;
        let data = training_data(&mut flags)?;
        let eval_data = std::mem::take(&mut flags.eval_data);
        ensure!(
            flags.eval_every == 0
                || !eval_data.is_empty()
                || flags.eval_split.is_some()
                || flags.sample_prompts.is_some(),
            "--eval-every {} has nothing to measure the loss on; give --eval-data FILE, or hold rows out with \
             --eval-split 0.05",
            flags.eval_every
        );
        for (given, flag) in [
            (flags.keep_best, "--keep-best"),
            (flags.early_stop.is_some(), "--early-stop"),
        ] {
            ensure!(
                !given
                    || flags.eval_every > 0
                        && (!eval_data.is_empty() || flags.eval_split.is_some()),
                "{flag} goes by evaluations; give --eval-every N, and --eval-data FILE or --eval-split 0.05"
            );
        }
        let data = data.context("no data is given; name a file with --data")?;
        let dir = flags.output.take();
        let dir = dir.context("no output is given; name one with --output")?;
        let in_run = || dir.join(tensorboard::FOLDER);
        Ok(Self {
            data,
            output: Output {
                tensorboard: flags
                    .tensorboard
                    .take()
                    .map(|given| given.unwrap_or_else(in_run)),
                sample_prompts: flags.sample_prompts.take().map(|file| SamplePrompts {
                    file,
                    max_tokens: flags.sample_tokens.unwrap_or(SAMPLE_TOKENS),
                }),
                dir,
                resume: flags.resume,
                log_json: flags.log_json.take(),
                eval_every: (flags.eval_every > 0).then_some(flags.eval_every),
                save_every: (flags.save_every > 0).then_some(flags.save_every),
                save_total: flags.save_total,
                keep_best: flags.keep_best,
                early_stop: flags.early_stop,
            },
            eval_data: DataFiles::resolve(eval_data, &[], &flags.rows.columns, kind)?,
            eval_split: flags.eval_split,
            #[cfg(feature = "mpi")]
            allreduce_dtype: flags.ranks.allreduce_dtype,
            #[cfg(not(feature = "mpi"))]
            allreduce_dtype: GradientDtype::F32,
            arguments: std::mem::take(&mut flags.arguments),
            training: Training::resolve(flags)?,
        })
    }
}

impl PlanRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// As [`Training`]'s.
    pub fn resolve(flags: PlanFlags) -> Result<Self> {
        let PlanFlags {
            mut train,
            like,
            measure,
            compute_rate,
            read_rate,
        } = flags;
        let model = match like {
            Some(name) => {
                train.model.model = Some(name.clone());
                PlannedModel::Known(name)
            }
            None => PlannedModel::Files {
                data: training_data(&mut train)?,
                eval_split: train.eval_split,
            },
        };
        let has_data = matches!(&model, PlannedModel::Files { data: Some(_), .. });
        ensure!(
            has_data || train.eval_split.is_none(),
            "--eval-split holds out examples of --data, and none are planned with; leave it out, or name a file with --data"
        );
        Ok(Self {
            training: Training::resolve(train)?,
            model,
            rates: Rates {
                measure,
                compute: compute_rate,
                read: read_rate,
            },
        })
    }
}

impl Training {
    /// Resolves the flags that `train` and `plan` share.
    ///
    /// # Errors
    /// As those of [`Model`], [`Optimizer`] and [`LearningRate`].
    pub(super) fn resolve(flags: TrainFlags) -> Result<Self> {
        let objective = objective::resolve(&flags.objective, &flags.rows)?;
        let optimizer = Optimizer::resolve(&flags)?;
        let learning_rate = LearningRate::resolve(&flags)?;
        if flags.init == Init::Loftq
            && let Some(quant @ (QuantName::Keep | QuantName::None)) = flags.model.quant.quant
        {
            let quant = quant.name();
            bail!(
                "--init loftq makes up for what 4 bits lose, and --quant {quant} loses nothing; leave one of them out"
            );
        }
        let adapter = match &flags.init_adapter {
            Some(dir) => Adapter::Trained(dir.clone()),
            None => Adapter::Fresh(Box::new(lora(&flags))),
        };
        let length = match flags.steps {
            Some(steps) => Length::Steps(steps),
            None => Length::Epochs(flags.epochs.unwrap_or(1.0)),
        };
        let model = Model::resolve(flags.model)?;
        let budget = model.paging.budget;
        if budget != Budget::Resident && flags.checkpointing == Checkpointing::None {
            bail!(
                "--weights-budget {budget}: without checkpoints the graph of a step holds all weights that it multiplied by; add \
                 --checkpointing layer"
            );
        }
        Ok(Self {
            model,
            limits: flags.rows.into(),
            packing: flags.packing,
            adapter,
            init: flags.init,
            tokens: Tokens::resolve(flags.tokens)?,
            optimizer,
            checkpointing: flags.checkpointing,
            length,
            learning_rate,
            config: TrainConfig {
                objective,
                batch_size: flags.batch_size,
                grad_accum: flags.grad_accum,
                optimizer: optimizer.kind,
                lora_plus_ratio: flags.lora_plus_ratio,
                neftune_alpha: flags.neftune_alpha,
                weight_decay: flags.weight_decay,
                max_grad_norm: flags.max_grad_norm,
                seed: flags.seed,
                shuffle: !flags.no_shuffle,
                group_by_length: flags.group_by_length,
                ..TrainConfig::default()
            },
        })
    }

    /// Returns the numbers of a run over `rows` rows.
    ///
    /// # Errors
    /// A number that cannot work.
    pub fn config(&self, rows: usize) -> Result<TrainConfig> {
        let mut config = self.config.clone();
        config.steps = match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => {
                (config.steps_of_epochs(rows, 1) as f64 * epochs).ceil() as usize
            }
        };
        self.learning_rate.apply(&mut config);
        config.validate()?;
        Ok(config)
    }

    /// Returns what is learnt.
    pub fn objective(&self) -> &Objective {
        &self.config.objective
    }

    /// Returns the seed of the run.
    pub fn seed(&self) -> u64 {
        self.config.seed
    }

    /// Returns the rows of each step over `data`.
    ///
    /// # Errors
    /// Rows that cannot be read.
    pub fn order(&self, data: &Dataset) -> Result<Order> {
        Ok(self.config.order(data)?)
    }

    /// Returns the tokens that the model gets beside its own.
    pub fn more_tokens(&self) -> MoreTokens<'_> {
        match &self.adapter {
            Adapter::Fresh(_) => MoreTokens::New(&self.tokens.added),
            Adapter::Trained(path) => MoreTokens::OfAdapter(Some(path)),
        }
    }

    /// Returns the number of rows of a micro-batch.
    pub fn batch_size(&self) -> usize {
        self.config.batch_size
    }

    /// Returns the number of micro-batches of an optimizer step.
    pub fn grad_accum(&self) -> usize {
        self.config.grad_accum
    }
}

/// Returns the rows to train on, if any are named.
pub(super) fn training_data(flags: &mut TrainFlags) -> Result<Option<DataFiles>> {
    let kind = examples(flags)?;
    let names = std::mem::take(&mut flags.data);
    DataFiles::resolve(names, &flags.data_weights, &flags.rows.columns, kind)
}

/// Returns the examples that are learnt from.
fn examples(flags: &TrainFlags) -> Result<ExampleKind> {
    Ok(objective::resolve(&flags.objective, &flags.rows)?.examples())
}

/// Returns the configuration of fresh adapters.
fn lora(flags: &TrainFlags) -> LoraConfig {
    let layers = &flags.layers;
    let targets = match layers.target.as_slice() {
        [all] if all == "all-linear" => Targets::AllLinear,
        names => Targets::Names(names.to_vec()),
    };
    let numbers = layers.layers.iter().cloned().flatten();
    let numbers: BTreeSet<usize> = numbers.collect();
    let lora = LoraConfig::new(flags.rank, flags.alpha.unwrap_or(2.0 * flags.rank as f64))
        .with_dropout(flags.dropout)
        .with_rslora(flags.rslora)
        .with_targets(targets)
        .with_rank_pattern(layers.rank_pattern.iter().cloned().collect())
        .with_alpha_pattern(layers.alpha_pattern.iter().cloned().collect());
    LoraConfig {
        exclude: (!layers.exclude.is_empty()).then(|| Targets::Names(layers.exclude.clone())),
        blocks: (!numbers.is_empty()).then(|| Blocks {
            numbers: numbers.into_iter().collect(),
            names: Vec::new(),
        }),
        ..lora
    }
}
