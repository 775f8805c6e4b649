use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::model::{KvCacheFlags, ModelFlags};
use super::values::{bytes, named_path, positive};

pub(super) const SERVE_HELP: &str = "\
Examples:
  finetune serve --model SmolLM2.gguf
  finetune serve --model SmolLM2.gguf --adapter notes=run --adapter tone=run-dpo --max-batch 16
  FINETUNE_API_KEY=... finetune serve --model SmolLM2.gguf --host 0.0.0.0

OpenAI's clients take http://127.0.0.1:8080/v1 as their base URL; a browser shows a chat at http://127.0.0.1:8080/.";

/// `finetune serve`.
#[derive(Args, Debug)]
#[command(override_usage = "finetune serve --model <MODEL> [OPTIONS]")]
pub struct ServeFlags {
    /// TOML file with flags by their names (`max-batch = 16`); flags given here override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The model.
    #[command(flatten)]
    pub model: ModelFlags,
    /// Serve an adapter under this name beside the model without one (repeatable): one of peft or mlx-lm, its folder or a file in
    /// it; of llama.cpp, its .gguf file
    #[arg(long, value_name = "NAME=PATH", value_parser = named_path, help_heading = "Model")]
    pub adapter: Vec<(String, PathBuf)>,
    /// What it keeps of the tokens already seen.
    #[command(flatten)]
    pub kv_cache: KvCacheFlags,
    /// Address to listen at; any but one of this machine itself needs a key
    #[arg(
        long,
        value_name = "IP",
        default_value = "127.0.0.1",
        help_heading = "Server"
    )]
    pub host: IpAddr,
    /// Port to listen at; 0 for one that is free
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 8080,
        help_heading = "Server"
    )]
    pub port: u16,
    /// Key that clients must send as a bearer token; better in the environment as FINETUNE_API_KEY, where no other user sees it
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub api_key: Option<String>,
    /// Most answers that are written at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = positive, help_heading = "Limits")]
    pub max_batch: usize,
    /// Most requests that wait beside as many that run; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Limits")]
    pub max_queue: usize,
    /// Most tokens of a prompt and its answer [default: the model's context]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Limits")]
    pub context: Option<usize>,
    /// Most bytes of a request
    #[arg(long, value_name = "BYTES", default_value = "4MiB", value_parser = bytes, help_heading = "Limits")]
    pub max_body: u64,
    /// Most seconds of a request, from its arrival to the end of its answer
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = positive, help_heading = "Limits")]
    pub timeout: usize,
}
