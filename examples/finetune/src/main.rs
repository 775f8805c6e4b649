//! Fine-tune a LLaMA in 4 bits from the command line.

fn main() {}
