//! `finetune plan`: what a training run would take, before it loads anything.

use anyhow::Result;
use burn_finetune::memory;
use burn_qlora::peft::{AdapterConfig, CONFIG_FILE};

use crate::cli::TrainArgs;
use crate::plan::{Plan, paper_models};
use crate::progress::human_bytes;
use crate::session::{RowLimits, Session};

/// Prints the terms and the peak for the model, and for the models of the QLoRA paper under the same flags.
///
/// # Errors
/// Whatever is wrong with the flags, the model's files, the data or an adapter's configuration.
pub fn run(args: &TrainArgs) -> Result<()> {
    args.model.open_device()?;
    let session = Session::open(args.model.model.as_deref())?;
    let limits = RowLimits {
        seq_len: args.seq_len,
        truncate: args.truncate,
    };
    let longest = match &args.data {
        Some(path) => session.training_data(path, limits, args.packing)?.longest(),
        None => session.seq_len(limits)?,
    };
    let lora = match &args.init_adapter {
        Some(adapter) => AdapterConfig::read(&adapter.join(CONFIG_FILE))?,
        None => args.lora(),
    };
    let plan = Plan::new(args, &session, &lora, longest, memory::rss_bytes())?;

    println!(
        "{} on {}: batches of {} × {longest} tokens, rank {}, in {}, checkpointing: {}",
        session.checkpoint.path().display(),
        args.model.device,
        args.batch_size,
        lora.rank,
        plan.workload.compute_dtype,
        args.checkpointing
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
        let plan = Plan::of(&config, args, plan.workload.clone(), plan.program)?;
        print!("{name:<5}");
        for ((_, bytes), width) in plan.terms().into_iter().zip(widths) {
            print!("{:>width$}", human_bytes(bytes));
        }
        println!("{:>11}", human_bytes(plan.peak()));
    }
    Ok(())
}
