use clap::Args;
use clap::builder::PossibleValuesParser;

use super::train::TrainFlags;
use super::values::{positive_bytes, positive_number};
use crate::known_models;

pub(super) const PLAN_HELP: &str = "\
Takes the flags and config files of `train`. With --data the rows are as long as they are there, without
it as long as --seq-len allows. No weight is read, and with --like no file at all.

What a step takes in time is told from two rates, which are given or measured: that of matrix products, and that of reading
what does not stay in memory.";

/// `finetune plan`.
#[derive(Args, Debug)]
pub struct PlanFlags {
    /// Plan for a well-known model instead of one that is here
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Model",
        value_parser = PossibleValuesParser::new(known_models::names()),
        conflicts_with_all = ["model", "data"]
    )]
    pub like: Option<String>,
    /// Measure the rates that are not given, in some seconds, with weights of the model
    #[arg(long, help_heading = "Time", conflicts_with = "like")]
    pub measure: bool,
    /// Operations of matrix products that the device does in a second, in units of 10^9
    #[arg(long, value_name = "GFLOPS", value_parser = positive_number, help_heading = "Time")]
    pub compute_rate: Option<f64>,
    /// Bytes of paged weights and optimizer state that are moved in a second (350MB)
    #[arg(long, value_name = "BYTES", value_parser = positive_bytes, help_heading = "Time")]
    pub read_rate: Option<u64>,

    /// The run.
    #[command(flatten)]
    pub train: TrainFlags,
}
