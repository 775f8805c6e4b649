use std::path::PathBuf;

use clap::Args;

pub(super) const REPORT_HELP: &str = "\
The page needs no network. It has the curves of loss, learning rate, gradient norm, throughput and memory (measured
against planned), the samples of --sample-prompts before and after, the data, the configuration and the fingerprints.
`train` writes it when it ends; a run that was stopped, or is still going, can be looked at with this command.";

/// `finetune report`.
#[derive(Args, Debug)]
pub struct ReportFlags {
    /// TOML file with flags by their names; flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The run: the output directory of `train`
    #[arg(value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// The file to write [default: report.html in the run's directory]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
