//! `finetune plan`: what a training run would take, before it loads anything.

use anyhow::Result;
use burn_finetune::memory;
use burn_qlora::peft::{AdapterConfig, CONFIG_FILE};
use burn_qlora_llama::Weights;

use crate::known_models;
use crate::opened_model::OpenedModel;
use crate::plan::{Plan, Planned};
use crate::progress::human_bytes;
use crate::run::{Adapter, DataFiles, PlanRun, PlannedModel, Training};

/// Prints the terms and the peak for the model, and for the models of the QLoRA paper under the same flags.
///
/// # Errors
/// Whatever is wrong with the model's files, the data or an adapter's configuration.
pub fn run(run: &PlanRun) -> Result<()> {
    let training = &run.training;
    let (model, longest) = match &run.model {
        PlannedModel::Known(name) => known(name, training)?,
        PlannedModel::Files { data } => opened(data.as_ref(), training)?,
    };
    let lora = match &training.adapter {
        Adapter::Trained(dir) => AdapterConfig::read(&dir.join(CONFIG_FILE))?,
        Adapter::Fresh(config) => config.clone(),
    };
    let plan = Plan::new(training, &model, &lora, longest, memory::rss_bytes())?;

    println!(
        "{} on {}: batches of {} × {longest} tokens, rank {}, in {}, checkpointing: {}",
        model.name,
        training.model.device_name,
        training.batch_size(),
        lora.rank,
        plan.workload.compute_dtype,
        training.checkpointing
    );
    for (name, bytes) in plan.terms() {
        println!("{name:<20}{:>10}", human_bytes(bytes));
    }
    println!("{:<20}{:>10}", "peak", human_bytes(plan.peak()));
    if plan.of_the_process()
        && let Some(available) = memory::available_bytes()
    {
        println!("{:<20}{:>10}", "available here", human_bytes(available));
    }

    println!("\nThe same on the models of the QLoRA paper:");
    let names = plan.terms().map(|(name, _)| name);
    let widths = names.map(|name| name.len().max(9) + 2);
    print!("     ");
    for (name, width) in names.into_iter().zip(widths) {
        print!("{name:>width$}");
    }
    println!("{:>11}", "peak");
    for (name, known) in known_models::OF_THE_PAPER {
        let config = known_models::config(known)?;
        let plan = Plan::of(&config, training, plan.workload.clone(), plan.program)?;
        print!("{name:<5}");
        for ((_, bytes), width) in plan.terms().into_iter().zip(widths) {
            print!("{:>width$}", human_bytes(bytes));
        }
        println!("{:>11}", human_bytes(plan.peak()));
    }
    Ok(())
}

/// Returns a well-known model, and the length of its rows.
fn known(name: &str, training: &Training) -> Result<(Planned, usize)> {
    let config = known_models::config(name)?;
    let longest = training.limits.seq_len(config.max_position_embeddings)?;
    let quantization = match training.model.quantization.weights(false)? {
        Weights::Quantized(format) => Some(format),
        Weights::AsStored | Weights::Dense | Weights::Trainable => None,
    };
    let model = Planned {
        name: name.into(),
        config,
        quantization,
    };
    Ok((model, longest))
}

/// Returns the model of files, and the length of its longest row.
fn opened(data: Option<&DataFiles>, training: &Training) -> Result<(Planned, usize)> {
    let opened = OpenedModel::open(&training.model)?;
    let longest = match data {
        Some(files) => opened
            .training_data(files, training.limits, training.packing)?
            .longest(),
        None => opened.seq_len(training.limits)?,
    };
    Ok((opened.planned()?, longest))
}
