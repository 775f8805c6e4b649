use std::ops::RangeInclusive;

use clap::Args;

use super::values::{blocks, with_number};

/// The layers that get an adapter, and what of it differs from layer to layer.
#[derive(Args, Debug)]
#[command(next_help_heading = "Adapter")]
pub struct LayerFlags {
    /// Layers that get an adapter: names, comma-separated (q_proj,v_proj,lm_head), or all-linear, which is all but the head
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "all-linear",
        value_delimiter = ','
    )]
    pub target: Vec<String>,
    /// Layers among these that get none, as --target names them (0.q_proj is that of the first block)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub exclude: Vec<String>,
    /// Blocks whose layers get adapters, by their numbers from 0: 0-3,8 [default: all]
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',', value_parser = blocks)]
    pub layers: Vec<RangeInclusive<usize>>,
    /// Another rank of the layers whose path ends in a match of this regular expression after a dot: v_proj=64. Given
    /// several times, the first that matches counts
    #[arg(long, value_name = "PATTERN=R", value_parser = with_number::<usize>)]
    pub rank_pattern: Vec<(String, usize)>,
    /// Another alpha of such layers
    #[arg(long, value_name = "PATTERN=ALPHA", value_parser = with_number::<f64>)]
    pub alpha_pattern: Vec<(String, f64)>,
}
