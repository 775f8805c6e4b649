use std::path::PathBuf;

use clap::Args;

/// The tokens whose rows of embedding and head are trained.
#[derive(Args, Debug)]
#[command(next_help_heading = "Adapter")]
pub struct TokenFlags {
    /// Add the tokens of FILE to the vocabulary, one a line or a JSON list: each is found whole in a text, and its rows of
    /// embedding and head are trained with the adapters and saved with them, the tokenizer beside
    #[arg(long, value_name = "FILE")]
    pub add_tokens: Option<PathBuf>,
    /// Train the rows of these tokens of the model as well, by their ids, comma-separated (peft's trainable_token_indices)
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub train_tokens: Vec<u32>,
}
