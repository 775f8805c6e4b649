//! The least time that a training step takes: what it computes and what it moves, each by a rate that is given or measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Distribution, Tensor};
use burn_qlora::{BaseWeight, QLoraLinear};
use burn_qlora_llama::{Checkpoint, ComputeDtype, Weights};
use nf4::QuantizedMatrix;

use crate::console::say;
use crate::plan::Plan;
use crate::progress::human_bytes;
use crate::run::{Rates, Training};

/// How long a rate is measured.
const MEASURED: Duration = Duration::from_secs(2);

/// What a step does.
struct Work {
    /// Floating-point operations.
    operations: f64,
    /// Bytes of weights and of the optimizer's state that come and go.
    moved: f64,
}

/// A rate, and whether it was measured.
#[derive(Clone, Copy)]
struct Rate {
    /// A second.
    value: f64,
    source: &'static str,
}

/// The model whose weights are measured with.
pub struct Measured<'a> {
    /// Its files.
    pub checkpoint: &'a Checkpoint,
    /// The form of its weights once they are loaded.
    pub weights: Weights,
}

/// Tells what a step of `plan` takes in time at least, if `rates` are given or to be measured with `model`.
///
/// # Errors
/// A rate that is neither given nor to be measured, where the other one is; one that cannot be measured.
pub fn tell(
    plan: &Plan,
    training: &Training,
    rates: &Rates,
    model: Option<&Measured<'_>>,
) -> Result<()> {
    if !rates.are_wanted() {
        return Ok(());
    }
    let given = |value: f64| Rate {
        value,
        source: "given",
    };
    let batches = training.grad_accum() as f64;
    let work = Work {
        operations: plan.operations as f64 * batches,
        // Forward, and once more on the way back.
        moved: 2.0 * plan.model.paged as f64 * batches + plan.moved_state as f64,
    };
    let compute = match (rates.compute, model) {
        (Some(rate), _) => given(1e9 * rate),
        (None, Some(model)) if rates.measure => compute_rate(plan, training, model)?,
        _ => bail!("--read-rate: a step's time takes both rates; give --compute-rate or --measure"),
    };
    let read = match (rates.read, model) {
        _ if work.moved == 0.0 => None,
        (Some(rate), _) => Some(given(rate as f64)),
        (None, Some(model)) if rates.measure => Some(read_rate(training, model)?),
        _ => {
            bail!("--compute-rate: this run moves weights or state; give --read-rate or --measure")
        }
    };
    let computing = work.operations / compute.value;
    say!("\nA step, at least:");
    say!(
        "{:<20}{:>10.1} s  {:.3} TFLOP at {:.1} GFLOP/s, {}",
        "computing",
        computing,
        work.operations / 1e12,
        compute.value / 1e9,
        compute.source
    );
    let Some(read) = read else {
        say!("nothing is moved, so computing bounds it");
        return Ok(());
    };
    let moving = work.moved / read.value;
    say!(
        "{:<20}{:>10.1} s  {} at {} a second, {}",
        "moving",
        moving,
        human_bytes(work.moved as u64),
        human_bytes(read.value as u64),
        read.source
    );
    // What is read ahead is read while the step computes.
    let (bound, by) = match moving > computing {
        true => (moving, "moving"),
        false => (computing, "computing"),
    };
    say!("{by} bounds it: {bound:.1} s, if the other is hidden behind it");
    Ok(())
}

/// Multiplies rows of a batch by the largest projection of the first block.
fn compute_rate(plan: &Plan, training: &Training, model: &Measured<'_>) -> Result<Rate> {
    let config = model.checkpoint.config();
    let first = config.projection_weights();
    let first = first.take_while(|(name, _)| name.starts_with("model.layers.0."));
    let (name, shape) = first
        .max_by_key(|(_, [rows, columns])| rows * columns)
        .context("--measure: the model has no linear layers")?;
    let device = training.model.device_name.open()?;
    let dtype = plan.workload.compute_dtype;
    let linear = match packed(model, &name, shape)? {
        Some(matrix) => QLoraLinear::on_weight(BaseWeight::on_device(matrix, &device), None),
        None => {
            let values = model.checkpoint.read_f32(&name, &shape)?;
            QLoraLinear::dense(dense(values, shape, dtype, &device), None)
        }
    };
    let tokens = plan.workload.batch.saturating_mul(plan.workload.seq);
    let x = Tensor::<2>::random(
        [tokens.max(1), shape[1]],
        Distribution::Uniform(-1.0, 1.0),
        (&device, dtype.dtype()),
    );
    let multiply = || -> Result<()> {
        let y = linear.forward(x.clone());
        device.sync().context("--measure")?;
        drop(y);
        Ok(())
    };
    // The first compiles, or warms caches.
    multiply()?;
    let (begun, mut count) = (Instant::now(), 0u32);
    while begun.elapsed() < MEASURED {
        multiply()?;
        count += 1;
    }
    let operations = 2.0 * tokens as f64 * shape[0] as f64 * shape[1] as f64;
    Ok(Rate {
        value: operations * f64::from(count) / begun.elapsed().as_secs_f64(),
        source: "measured",
    })
}

fn dense(values: Vec<f32>, shape: [usize; 2], dtype: ComputeDtype, device: &Device) -> Tensor<2> {
    let data = burn::tensor::TensorData::new(values, shape);
    Tensor::from_data(data, (device, dtype.dtype()))
}

/// Returns a weight in the form in which it is used; `None` of a dense one.
fn packed(model: &Measured<'_>, name: &str, shape: [usize; 2]) -> Result<Option<QuantizedMatrix>> {
    let checkpoint = model.checkpoint;
    Ok(match model.weights {
        Weights::AsStored => checkpoint.read_quantized(name, shape)?,
        Weights::Kept => checkpoint.read_blocks(name, shape)?,
        Weights::Quantized(config) => Some(checkpoint.quantize(name, shape, config)?),
        Weights::Dense | Weights::Trainable => None,
    })
}

/// Reads weights from the model's files, as far as the time goes, from the last block on: what a step before has read first is what
/// the system is most likely to have forgotten.
fn read_rate(training: &Training, model: &Measured<'_>) -> Result<Rate> {
    ensure!(
        training.model.device_name.is_host(),
        "--measure: what {} is given comes from this machine's memory, which is not measured; give --read-rate",
        training.model.device_name
    );
    ensure!(
        matches!(model.weights, Weights::AsStored | Weights::Kept),
        "--measure: the weights will lie in a file that is not there yet; give --read-rate, or quantize the model \
         before (`finetune quantize --to native`)"
    );
    let weights: Vec<_> = model.checkpoint.config().projection_weights().collect();
    let begun = Instant::now();
    let mut bytes = 0u64;
    for (name, shape) in weights.iter().rev() {
        if let Some(matrix) = packed(model, name, *shape)? {
            bytes += matrix.layout().bytes() as u64;
        }
        if begun.elapsed() >= MEASURED {
            break;
        }
    }
    Ok(Rate {
        value: bytes as f64 / begun.elapsed().as_secs_f64(),
        source: "measured",
    })
}
