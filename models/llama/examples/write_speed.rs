//! Continues a prompt by 128 tokens, three times, and prints how fast: tokens a second of the prompt, and of writing after the first
//! token.
//!
//! usage: write_speed MODEL nf4|keep|none f32|bf16 PROMPT_TOKENS [GUESSES]
//!
//! The prompt is the beginning of a text that repeats itself, of as many tokens. With GUESSES it is written by prompt lookup. A tool
//! for measurements, among the examples because it needs this package alone.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use burn_qlora_llama::{Checkpoint, ComputeDtype, Decoder, LoadOptions, SamplingConfig, Weights};
use nf4::QuantConfig;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: write_speed MODEL nf4|keep|none f32|bf16 PROMPT_TOKENS [GUESSES]";
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and the dog, who has seen many foxes, looks up and goes on \
                    sleeping in the sun. Then the fox tells the crow what it has seen, and the crow tells the whole forest. ";
const WRITTEN: usize = 128;

/// Returns the CPU where there is a choice: Burn's default is the first GPU backend among the features.
fn device() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    return Device::default();
}

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some([model, quant, dtype, length]), guesses) = (args.first_chunk(), args.get(4)) else {
        return Err(USAGE.into());
    };
    let weights = match quant.as_str() {
        "nf4" => Weights::Quantized(QuantConfig::default()),
        "keep" => Weights::Kept,
        "none" => Weights::Dense,
        _ => return Err(USAGE.into()),
    };
    let dtype = match dtype.as_str() {
        "f32" => ComputeDtype::F32,
        "bf16" => ComputeDtype::Bf16,
        _ => return Err(USAGE.into()),
    };
    let checkpoint = Checkpoint::open(model)?;
    let options = LoadOptions::new(weights).with_compute_dtype(dtype);
    let model = Decoder::load(&checkpoint, &options, &device())?;
    let tokenizer = checkpoint.tokenizer()?;
    let length: usize = length.parse()?;
    let text = TEXT.repeat(length / 16 + 1);
    let prompt = tokenizer.encode(text, false)?.get_ids()[..length].to_vec();
    let config = SamplingConfig::new()
        .with_max_tokens(WRITTEN)
        .with_stop_tokens(Some(vec![]));
    let mut text = String::new();
    for _ in 0..3 {
        let start = Instant::now();
        let mut first = start;
        let mut count = 0;
        let on_token = |_| {
            if count == 0 {
                first = Instant::now();
            }
            count += 1;
            ControlFlow::Continue(())
        };
        let (tokens, kept) = match guesses {
            Some(most) => {
                let found = model.generate_with_lookup(
                    &prompt,
                    &config,
                    0,
                    most.parse()?,
                    &mut None,
                    on_token,
                );
                let (found, guesses) = found?;
                (found.tokens, Some(guesses))
            }
            None => (model.generate(&prompt, &config, 0, on_token)?.tokens, None),
        };
        println!(
            "prompt {:7.1} tokens/s, writing {:6.1} tokens/s {}",
            length as f64 / (first - start).as_secs_f64(),
            (tokens.len() - 1) as f64 / first.elapsed().as_secs_f64(),
            kept.map_or(String::new(), |kept| format!("{kept:?}"))
        );
        text = tokenizer.decode(&tokens, true)?;
    }
    println!("{text:?}");
    Ok(())
}
