//! `finetune plan`: what a training run would take, before it loads anything.

use anyhow::Result;
use burn_finetune::memory;
use burn_qlora::peft::{AdapterConfig, CONFIG_FILE};

use crate::opened_model::OpenedModel;
use crate::plan::{Plan, paper_models};
use crate::progress::human_bytes;
use crate::run::{Adapter, PlanRun};

/// Prints the terms and the peak for the model, and for the models of the QLoRA paper under the same flags.
///
/// # Errors
/// Whatever is wrong with the model's files, the data or an adapter's configuration.
pub fn run(run: &PlanRun) -> Result<()> {
    let training = &run.training;
    let opened = OpenedModel::open(&training.model)?;
    let longest = match &run.data {
        Some(path) => opened
            .training_data(path, training.limits, training.packing)?
            .longest(),
        None => opened.seq_len(training.limits)?,
    };
    let lora = match &training.adapter {
        Adapter::Trained(dir) => AdapterConfig::read(&dir.join(CONFIG_FILE))?,
        Adapter::Fresh(config) => config.clone(),
    };
    let plan = Plan::new(training, &opened, &lora, longest, memory::rss_bytes())?;

    println!(
        "{} on {}: batches of {} × {longest} tokens, rank {}, in {}, checkpointing: {}",
        opened.checkpoint.path().display(),
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
    for (name, config) in paper_models() {
        let plan = Plan::of(&config, training, plan.workload.clone(), plan.program)?;
        print!("{name:<5}");
        for ((_, bytes), width) in plan.terms().into_iter().zip(widths) {
            print!("{:>width$}", human_bytes(bytes));
        }
        println!("{:>11}", human_bytes(plan.peak()));
    }
    Ok(())
}
