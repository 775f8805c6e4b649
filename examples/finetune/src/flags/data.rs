use clap::Args;

use super::train::TrainFlags;

pub(super) const DATA_HELP: &str = "\
Takes the flags and config files of `train`, of which those of the data, --batch-size and --grad-accum count. It goes on
after a line that `train` would refuse and counts such lines by what is wrong. No weight is read.

The learnt part is green on a terminal, and elsewhere, or with NO_COLOR, between ⟦ and ⟧. Special tokens are shown, and
bytes that would steer the terminal are escaped.";

/// `finetune data`.
#[derive(Args, Debug)]
pub struct DataFlags {
    /// Print the first N rows
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Output")]
    pub show: usize,
    /// Print one JSON object as the last line
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// The run.
    #[command(flatten)]
    pub train: TrainFlags,
}
