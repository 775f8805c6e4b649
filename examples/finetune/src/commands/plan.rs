//! `finetune plan`: what a training run would take, before it loads anything.

use anyhow::{Result, bail};
use burn_finetune::memory;
use burn_qlora_llama::memory::ProjectionFormats;
use burn_qlora_llama::{Checkpoint, Weights};

use crate::console::say;
use crate::fresh_adapters;
use crate::known_models;
use crate::opened_model::{OpenedModel, open_adapter};
use crate::plan::{Plan, Planned, PlannedRows};
use crate::progress::human_bytes;
use crate::run::{Adapter, DataFiles, PlanRun, PlannedModel, Stored, Training};
use crate::step_time::{self, Measured};

/// Prints the terms and the peak for the model, and for the models of the QLoRA paper under the same flags.
///
/// # Errors
/// Whatever is wrong with the model's files, the data or an adapter's configuration.
pub fn run(run: &PlanRun) -> Result<()> {
    let training = &run.training;
    let mut tokens = training.tokens.trained.clone();
    let (model, rows, files) = match &run.model {
        PlannedModel::Known(name) => {
            let (mut model, rows) = known(name, training)?;
            // Without its tokenizer: as if it had a row for each token and no more.
            let first = model.config.vocab_size;
            model.config.vocab_size += training.tokens.added.len();
            tokens.extend((first..model.config.vocab_size).map(|token| token as u32));
            (model, rows, None)
        }
        PlannedModel::Files { data, eval_split } => {
            let opened = opened(data.as_ref(), *eval_split, training)?;
            tokens.extend(opened.added);
            let files = (opened.checkpoint, opened.weights);
            (opened.planned, opened.rows, Some(files))
        }
    };
    let lora = match &training.adapter {
        Adapter::Trained(path) => {
            let adapter = match &files {
                Some((checkpoint, _)) => open_adapter(path, checkpoint)?,
                // Of no files: what a GGUF adapter is for they would tell.
                None => burn_qlora::peft::Adapter::open(path)?,
            };
            adapter.config(&model.config.adaptable_paths())?
        }
        Adapter::Fresh(config) => fresh_adapters::on_model(config, &model.config, &tokens)?,
    };
    let plan = Plan::new(training, &model, &lora, rows, memory::rss_bytes())?;

    let most = match rows.most_tokens {
        Some(most) if plan.workload.seq < rows.longest => format!(" (at most {most})"),
        _ => String::new(),
    };
    say!(
        "{} on {}: batches of {} × {} tokens{most}, rank {}, in {}, checkpointing: {}",
        model.name,
        training.model.device_name,
        training.batch_size() * rows.width,
        rows.longest,
        lora.rank,
        plan.workload.compute_dtype,
        training.checkpointing
    );
    for (name, bytes) in plan.terms() {
        say!("{name:<20}{:>10}", human_bytes(bytes));
    }
    if plan.initialization > 0 {
        say!(
            "{:<20}{:>10}",
            "LoftQ, before",
            human_bytes(plan.initialization)
        );
    }
    say!("{:<20}{:>10}", "peak", human_bytes(plan.peak()));
    if plan.of_the_process()
        && let Some(available) = memory::available_bytes()
    {
        say!("{:<20}{:>10}", "available here", human_bytes(available));
    }

    let measured = files.as_ref().map(|(checkpoint, weights)| Measured {
        checkpoint,
        weights: *weights,
    });
    step_time::tell(&plan, training, &run.rates, measured.as_ref())?;

    if let ProjectionFormats::Stored(_) = plan.workload.quantization {
        // Other models do not have this one's blocks.
        return Ok(());
    }
    say!("\nThe same on the models of the QLoRA paper:");
    let names = plan.terms().map(|(name, _)| name);
    let widths = names.map(|name| name.len().max(9) + 2);
    let columns = names.into_iter().zip(widths);
    let header: String = columns
        .map(|(name, width)| format!("{name:>width$}"))
        .collect();
    say!("     {header}{:>11}", "peak");
    for (name, known) in known_models::OF_THE_PAPER {
        let config = known_models::config(known)?;
        let mut workload = plan.workload.clone();
        workload.lora = workload.lora.fitted_to(&config.adaptable_paths())?;
        let plan = Plan::of(&config, training, workload, plan.program)?;
        let columns = plan.terms().into_iter().zip(widths);
        let terms: String = columns
            .map(|((_, bytes), width)| format!("{:>width$}", human_bytes(bytes)))
            .collect();
        say!("{name:<5}{terms}{:>11}", human_bytes(plan.peak()));
    }
    Ok(())
}

/// Returns a well-known model, and rows as long as they may be.
fn known(name: &str, training: &Training) -> Result<(Planned, PlannedRows)> {
    let config = known_models::config(name)?;
    let longest = training.limits.seq_len(config.max_position_embeddings)?;
    let rows = PlannedRows::as_long_as(longest, training.objective(), training.packing);
    let quantization = match training
        .model
        .quantization
        .weights(Stored::Otherwise, None)?
    {
        Weights::Quantized(format) => ProjectionFormats::Same(format),
        Weights::AsStored | Weights::Dense | Weights::Trainable => ProjectionFormats::Dense,
        Weights::Kept => {
            bail!("--quant keep: {name} has no files to keep; name a model with --model")
        }
    };
    let model = Planned {
        name: name.into(),
        config,
        quantization,
    };
    Ok((model, rows))
}

/// The model of files.
struct Opened {
    planned: Planned,
    /// Those of the data, or as long as they may be.
    rows: PlannedRows,
    checkpoint: Checkpoint,
    /// The form of its weights once they are loaded.
    weights: Weights,
    /// The tokens that it got.
    added: Vec<u32>,
}

/// Opens the model of files, and reads the data if there are any.
fn opened(data: Option<&DataFiles>, held_out: Option<f64>, training: &Training) -> Result<Opened> {
    let trained = training.adapter.trained_on();
    let opened = OpenedModel::open(&training.model, trained, training.more_tokens())?;
    opened.check_init(training.init)?;
    let rows = match data {
        Some(files) => {
            let data = opened.training_data(files, held_out, training)?;
            PlannedRows::of(&data, &training.config(data.len())?)?
        }
        None => {
            let longest = opened.encoder(training.limits)?.max_len;
            PlannedRows::as_long_as(longest, training.objective(), training.packing)
        }
    };
    let planned = opened.planned()?;
    opened.tell_of_second_quantization();
    Ok(Opened {
        planned,
        rows,
        weights: opened.weights(),
        checkpoint: opened.checkpoint,
        added: opened.added,
    })
}
