use std::str::FromStr;

use burn_finetune::GradientDtype;
use clap::Args;

/// Processes that train together, started by mpirun.
#[derive(Args, Debug)]
#[command(next_help_heading = "Ranks")]
pub struct RankFlags {
    /// Number of --device's device, or auto: with mpirun, the processes on a machine take its devices in turn
    #[arg(long, value_name = "N|auto")]
    pub device_index: Option<DeviceIndex>,
    /// What gradients are rounded to on their way between processes
    #[arg(long, value_enum, default_value_t = GradientDtype::F32)]
    pub allreduce_dtype: GradientDtype,
}

/// The number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceIndex {
    /// That of the process among those on its machine.
    Auto,
    /// This one.
    Number(usize),
}

impl FromStr for DeviceIndex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => number
                .parse()
                .map(Self::Number)
                .map_err(|_| "it is neither a number nor auto".to_owned()),
        }
    }
}
