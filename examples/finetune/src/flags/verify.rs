use std::path::PathBuf;

use clap::Args;

use super::values::positive;
use crate::device::DeviceName;

pub(super) const VERIFY_HELP: &str = "\
Everything that the run read is taken from its run.json and held against the checksums there; then the first steps are taken
again, from the first one on however often the run was stopped, and their losses held against metrics.jsonl: bit by bit on
flex, elsewhere within a tolerance that is told. Nothing is written.

Exit codes: 0 the same; 1 not the same, with what is otherwise; 2 the run cannot be done again, and why.";

/// `finetune verify`.
#[derive(Args, Debug)]
pub struct VerifyFlags {
    /// TOML file with flags by their names; flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The run: the output directory of `train`
    #[arg(value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// Steps to take again [default: 5, or all that the run has taken]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub steps: Option<usize>,
    /// The run's model, where it has moved
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// The run's data, where they have moved; as often as the run was given --data, in that order
    #[arg(long, value_name = "FILE")]
    pub data: Vec<PathBuf>,
    /// The adapter that the run was started from, where it has moved
    #[arg(long, value_name = "DIR")]
    pub init_adapter: Option<PathBuf>,
    /// The file of the run's --chat-template, where it has moved
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<String>,
    /// Another device than the run's; the losses are then compared within a tolerance
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
}
