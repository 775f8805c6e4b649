use std::path::PathBuf;

use clap::Args;

use super::model::{AdaptedModelFlags, KvCacheFlags};
use super::values::{at_most_one, guesses, not_negative, positive, positive_number, share};

/// `finetune generate`.
#[derive(Args, Debug)]
#[command(
    override_usage = "finetune generate --model <MODEL> (--prompt <TEXT> | --chat) [OPTIONS]"
)]
pub struct GenerateFlags {
    /// TOML file with flags by their names (`max-tokens = 64`); flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The model.
    #[command(flatten)]
    pub model: AdaptedModelFlags,
    /// What it keeps of the tokens already seen.
    #[command(flatten)]
    pub kv_cache: KvCacheFlags,
    /// Text to continue
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Text",
        conflicts_with = "chat",
        allow_hyphen_values = true
    )]
    pub prompt: Option<String>,
    /// Talk with the model, turn by turn, in its own chat format
    #[arg(long, help_heading = "Text")]
    pub chat: bool,
    /// Begin the chat with this system prompt
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Text",
        conflicts_with = "prompt",
        allow_hyphen_values = true
    )]
    pub system: Option<String>,
    /// Most tokens to write, in a chat per turn
    #[arg(long, value_name = "N", default_value = "256", value_parser = positive, help_heading = "Text")]
    pub max_tokens: usize,
    /// Guess up to N tokens ahead where the last ones stood before, in the prompt or in what was written, and check them in
    /// one step: the same text, faster where it repeats what is there. 1 to 7; 4 where N is left out
    #[arg(
        long,
        value_name = "N",
        value_parser = guesses,
        num_args = 0..=1,
        default_missing_value = "4",
        help_heading = "Text"
    )]
    pub lookup: Option<usize>,
    /// 0 takes the likeliest token always; higher is livelier
    #[arg(long, value_name = "T", default_value = "0", value_parser = not_negative, help_heading = "Sampling")]
    pub temperature: f64,
    /// Choose among the K likeliest tokens only
    #[arg(long, value_name = "K", value_parser = positive, help_heading = "Sampling")]
    pub top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", value_parser = share, help_heading = "Sampling")]
    pub top_p: Option<f64>,
    /// Choose among the tokens that are at least P times as likely as the likeliest
    #[arg(long, value_name = "P", value_parser = at_most_one, help_heading = "Sampling")]
    pub min_p: Option<f64>,
    /// Make the tokens of the prompt and of the text so far less likely, by dividing their positive logits and multiplying
    /// their negative ones; 1 changes nothing. It acts at temperature 0 too
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive_number, help_heading = "Sampling")]
    pub repetition_penalty: f64,
    /// Seed of the sampling
    #[arg(
        long,
        value_name = "N",
        default_value_t = 42,
        help_heading = "Sampling"
    )]
    pub seed: u64,
}
