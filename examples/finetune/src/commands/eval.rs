//! `finetune eval`: loss and perplexity, and how many answers are exactly right.

use anyhow::{Context, Result};
use burn_finetune::{EvalReport, evaluate};
use burn_qlora_llama::ComputeDtype;
use serde::Serialize;

use crate::cli::EvalArgs;
use crate::exact_match::{self, ExactMatch};
use crate::session::{RowLimits, Session};

/// The object of `--json`.
#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    loss: EvalReport,
    #[serde(flatten)]
    answers: Option<ExactMatch>,
}

/// Measures and prints.
///
/// # Errors
/// Whatever is wrong with the flags, the model, the adapter or the data.
pub fn run(args: &EvalArgs) -> Result<()> {
    let path = args
        .data
        .as_ref()
        .context("no data is given; name a file with --data")?;
    let device = args.model.open_device()?;
    let session = Session::open(args.model.model.as_deref())?;
    let limits = RowLimits {
        seq_len: args.seq_len,
        truncate: args.truncate,
    };
    let data = session
        .dataset(path, limits)?
        .head(args.max_rows.unwrap_or(usize::MAX));
    let questions = match args.exact_match {
        true => Some(exact_match::questions(&session, &data)?),
        false => None,
    };
    let model =
        session.load_with_adapter(&args.model, &args.quant, args.adapter.as_deref(), &device)?;

    let loss = evaluate(&model, &data, args.batch_size)?;
    let answers = questions
        .map(|questions| exact_match::ask(&session, &model.llama, &questions))
        .transpose()?;
    println!(
        "computed in {}",
        ComputeDtype::from(args.model.compute_dtype)
    );
    println!("rows        {}", data.len());
    println!("tokens      {}", loss.tokens);
    println!("loss        {:.4} nats a token", loss.nll);
    println!("perplexity  {:.4}", loss.perplexity);
    if let Some(answers) = &answers {
        println!(
            "exact match {:.1} % ({} of {} answers)",
            100.0 * answers.exact_match,
            answers.matched,
            answers.exact_match_rows
        );
    }
    if args.json {
        println!("{}", serde_json::to_string(&Measured { loss, answers })?);
    }
    Ok(())
}
