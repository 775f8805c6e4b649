use burn_finetune::Learn;
use clap::Args;

use super::values::positive;

/// The limits of the rows of a data file.
#[derive(Args, Debug)]
#[command(next_help_heading = "Data")]
pub struct RowFlags {
    /// Most tokens in a row [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub seq_len: Option<usize>,
    /// Cut rows that are longer than --seq-len, instead of refusing them; those that have nothing to learn then are left
    /// out and counted
    #[arg(long)]
    pub truncate: bool,
    /// The part of a row that is learnt. Of a conversation's turns those with "weight": 0 or "train": false never are; a
    /// text is learnt whole
    #[arg(long, value_enum, default_value_t = Learn::AllAnswers)]
    pub learn: Learn,
    /// Columns that have other names than those that are read, comma-separated: prompt=question,completion=answer
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = named_column)]
    pub columns: Vec<(String, String)>,
}

fn named_column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, column)) if !name.is_empty() && !column.is_empty() => {
            Ok((name.trim().to_owned(), column.to_owned()))
        }
        _ => Err("must be a name and a column, as prompt=question".to_string()),
    }
}
