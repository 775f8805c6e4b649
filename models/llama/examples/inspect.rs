//! Loads a checkpoint, in the blocks of its file where they can be kept and else in NF4, continues a prompt, and reports time and memory; optionally writes it in 4 bits.
//!
//! usage: inspect MODEL [PROMPT [OUTPUT]]
//!
//! A tool for measurements, among the examples because it needs this package and its dev-dependencies alone.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_qlora_llama::{
    Checkpoint, Decoder, LoadOptions, SamplingConfig, Weights, write_bitsandbytes,
};
use nf4::QuantConfig;
use tensor_files::{AtomicFile, Dtype, TensorWriter};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Returns the CPU where there is a choice: Burn's default is the first GPU backend among the features.
fn device() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    return Device::default();
}

fn memory(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap_or("0");
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let model_path = args
        .next()
        .ok_or("usage: inspect MODEL [PROMPT [OUTPUT]]")?;
    let prompt = args
        .next()
        .unwrap_or_else(|| "The capital of France is".into());
    println!("at start: {:.0} MiB resident", memory("VmRSS:"));
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&model_path)?;
    println!(
        "opened in {:.2} s: {:.0} MiB resident",
        start.elapsed().as_secs_f64(),
        memory("VmRSS:")
    );
    let start = Instant::now();
    let options = match checkpoint.stored_formats() {
        Ok(_) => LoadOptions::new(Weights::Kept),
        Err(_) => LoadOptions::quantized(QuantConfig::default()),
    };
    let model = Decoder::load(&checkpoint, &options, &device())?;
    println!(
        "loaded in {:.2} s: {:.0} MiB resident, {:.0} MiB at the peak",
        start.elapsed().as_secs_f64(),
        memory("VmRSS:"),
        memory("VmHWM:")
    );
    let tokenizer = checkpoint.tokenizer()?;
    let ids = tokenizer.encode(prompt, true)?.get_ids().to_vec();
    for count in [64, 256] {
        let config = SamplingConfig::new()
            .with_max_tokens(count)
            .with_stop_tokens(Some(vec![]));
        let (start, mut first) = (Instant::now(), None);
        let generation = model.generate(&ids, &config, 0, |_| {
            first.get_or_insert_with(Instant::now);
            ControlFlow::Continue(())
        })?;
        let decode = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        println!("{:?}", tokenizer.decode(&generation.tokens, false)?);
        println!(
            "{} tokens, first after {:.3} s, then {:.1} tokens/s",
            generation.tokens.len(),
            start.elapsed().as_secs_f64() - decode,
            (generation.tokens.len() - 1) as f64 / decode
        );
    }
    if let Some(output) = args.next() {
        let start = Instant::now();
        write_bitsandbytes(&checkpoint, &output, QuantConfig::default(), |_, _| {
            let _ = std::io::stdout().flush();
        })?;
        println!("wrote {output} in {:.2} s", start.elapsed().as_secs_f64());
        let written = Checkpoint::open(&output)?;
        let model = Decoder::load(&written, &LoadOptions::default(), &device())?;
        let row: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let input =
            Tensor::<2, Int>::from_data(TensorData::new(row.clone(), [1, row.len()]), &device());
        let logits = model.forward(input).into_data().try_into_vec::<f32>()?;
        let bytes = |values: Vec<[u8; 4]>| values.concat();
        let logits = bytes(logits.iter().map(|value| value.to_le_bytes()).collect());
        let row_bytes: Vec<u8> = row.iter().flat_map(|id| id.to_le_bytes()).collect();
        let vocab = model.config().vocab_size;
        let tensors = [
            ("input_ids", Dtype::I64, vec![1, row.len()], row_bytes),
            ("logits", Dtype::F32, vec![1, row.len(), vocab], logits),
        ];
        let declared = tensors
            .iter()
            .map(|(name, dtype, shape, _)| (name.to_string(), *dtype, shape.clone()));
        let file = AtomicFile::create(format!("{output}.logits.safetensors"))?;
        let mut writer = TensorWriter::begin(file, None, declared)?;
        for (name, _, _, bytes) in &tensors {
            writer.write(name, bytes)?;
        }
        writer.finish()?.commit()?;
    }
    Ok(())
}
