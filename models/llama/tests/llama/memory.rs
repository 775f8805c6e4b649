//! The terms of the memory plan against models that are loaded.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor};
use burn_paged::Budget;
use burn_qlora::{Checkpointing, LoraConfig, LoraModel, QuantConfig, Targets, attach_adapters};
#[cfg(feature = "gguf")]
use burn_qlora_llama::memory::ProjectionFormats;
use burn_qlora_llama::memory::{Implementation, ModelMemory, Tensors, Workload};
use burn_qlora_llama::{Checkpoint, ComputeDtype, Decoder, LoadOptions, Weights};

use qlora_test_support::{FAMILIES, fixture};

#[cfg(feature = "gguf")]
use crate::gguf_file::tiny_llama;

fn workload(batch: usize, seq: usize) -> Workload {
    Workload {
        batch,
        seq,
        quantization: Some(QuantConfig::default()).into(),
        compute_dtype: ComputeDtype::F32,
        lora: LoraConfig::new(8, 16.0),
        checkpointing: Checkpointing::None,
        kernels: Implementation::on_flex(),
        weights_budget: Budget::Resident,
    }
}

fn plan(name: &str, workload: &Workload) -> ModelMemory {
    let checkpoint = Checkpoint::open(fixture(name)).expect("opens");
    checkpoint
        .config()
        .memory(workload)
        .expect("can be planned")
}

/// Bytes of the parameters, words and floats.
#[derive(Default)]
struct Bytes {
    words: u64,
    floats: u64,
}

impl ModuleVisitor for Bytes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        self.floats += (value.shape().num_elements() * value.dtype().size()) as u64;
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let value = param.val();
        self.words += (value.shape().num_elements() * value.dtype().size()) as u64;
    }
}

/// Of all families.
fn models() -> Vec<String> {
    let llama = ["tiny_llama", "tiny_llama_tied"].map(String::from);
    let others = FAMILIES.map(|family| format!("families/{family}"));
    llama.into_iter().chain(others).collect()
}

#[cfg(feature = "flex")]
#[test]
fn weights_take_what_is_planned() {
    for name in models() {
        let name = &name;
        let checkpoint = Checkpoint::open(fixture(name)).expect("opens");
        for dtype in [ComputeDtype::F32, ComputeDtype::Bf16] {
            for quantization in [None, Some(QuantConfig::default())] {
                let weights = quantization.map_or(Weights::Dense, Weights::Quantized);
                let options = LoadOptions::new(weights).with_compute_dtype(dtype);
                let model = Decoder::load(&checkpoint, &options, &Device::flex()).expect("loads");
                let mut found = Bytes::default();
                model.visit(&mut found);
                let planned = plan(
                    name,
                    &Workload {
                        quantization: quantization.into(),
                        compute_dtype: dtype,
                        ..workload(1, 16)
                    },
                );
                assert_eq!(
                    (planned.quantized.bytes(), planned.dense.bytes()),
                    (found.words, found.floats),
                    "{name} in {dtype}, {quantization:?}"
                );
            }
        }
    }
}

#[cfg(all(feature = "flex", feature = "gguf"))]
#[test]
fn kept_blocks_take_what_is_planned() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    tiny_llama("tiny_llama", false).in_blocks().write(&path);
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let options = LoadOptions::new(Weights::Kept);
    let model = Decoder::load(&checkpoint, &options, &Device::flex()).expect("loads");
    let mut found = Bytes::default();
    model.visit(&mut found);
    let formats = checkpoint.stored_formats().expect("known");
    let kept = Workload {
        quantization: ProjectionFormats::Stored(formats),
        ..workload(1, 16)
    };
    let planned = checkpoint.config().memory(&kept).expect("plans");
    assert_eq!(
        (planned.quantized.bytes(), planned.dense.bytes()),
        (found.words, found.floats)
    );
}

#[cfg(feature = "flex")]
#[test]
fn factors_are_those_that_are_attached() {
    let names = |names: &[&str]| Targets::Names(names.iter().map(|&name| name.into()).collect());
    let some = Targets::Regex(r"model\.layers\.[12]\..*".into());
    let cases = [
        ("tiny_llama", Targets::AllLinear),
        ("tiny_llama", names(&["q_proj", "down_proj"])),
        ("tiny_llama", some.clone()),
        ("tiny_llama", names(&["q_proj", "lm_head"])),
        ("tiny_llama_tied", names(&["lm_head"])),
        ("families/phi3", Targets::AllLinear),
        ("families/phi3", names(&["qkv_proj", "down_proj"])),
        ("families/gemma3", some),
    ];
    for (name, targets) in cases {
        let checkpoint = Checkpoint::open(fixture(name)).expect("opens");
        let lora = LoraConfig::new(8, 16.0).with_targets(targets);
        let options = LoadOptions::quantized(QuantConfig::default());
        let mut model = Decoder::load(&checkpoint, &options, &Device::flex()).expect("loads");
        attach_adapters(&mut model, &lora, 0).expect("fits");
        let found: Vec<[usize; 2]> = model
            .lora_adapters()
            .into_iter()
            .flat_map(|(_, branch)| [&branch.lora.a, &branch.lora.b])
            .map(|factor| factor.dims())
            .collect();
        let lora = Workload {
            lora,
            ..workload(1, 16)
        };
        assert_eq!(plan(name, &lora).factors, found, "{name}");
    }
}

/// The bytes of a step follow the tokens, whatever is kept, because no score matrix is held.
#[test]
fn what_a_step_needs_is_linear_in_the_tokens() {
    for checkpointing in [Checkpointing::None, Checkpointing::Layer] {
        let step = |batch, seq| {
            let workload = Workload {
                checkpointing,
                ..workload(batch, seq)
            };
            let planned = plan("tiny_llama", &workload);
            planned.backward(Tensors::default())
        };
        // Beyond the rows that a product packs at a time.
        let per_token = (step(1, 8192) - step(1, 4096)) / 4096;
        assert_eq!(step(1, 16_384) - step(1, 8192), 8192 * per_token);
        assert_eq!(step(4, 2048), step(1, 8192));
    }
}

#[test]
fn checkpointing_keeps_an_input_a_block() {
    let none = plan("tiny_llama", &workload(2, 64));
    let layer = Workload {
        checkpointing: Checkpointing::Layer,
        ..workload(2, 64)
    };
    let layer = plan("tiny_llama", &layer);
    // 3 blocks, 64 wide, f32.
    assert_eq!(layer.activations.bytes(), 3 * 2 * 64 * 64 * 4);
    assert!(
        none.activations.bytes() > 10 * layer.activations.bytes(),
        "{none:?}"
    );
    assert!(
        layer.block.bytes() > none.block.bytes(),
        "a block runs again"
    );
}

#[test]
fn more_than_there_can_be_is_told_as_such() {
    let planned = plan("tiny_llama", &workload(usize::MAX, 512));
    assert!(planned.peak(0, Tensors::default()) > 1 << 60, "{planned:?}");
}

/// Only blocks from the first adapted one on keep anything, and dropout makes every adapter keep its own input.
#[test]
fn adapters_decide_what_is_kept() {
    let with = |lora: LoraConfig| {
        let workload = Workload {
            lora,
            ..workload(2, 64)
        };
        plan("tiny_llama", &workload).activations.bytes()
    };
    let all = with(LoraConfig::new(8, 16.0));
    let last =
        LoraConfig::new(8, 16.0).with_targets(Targets::Regex(r"model\.layers\.2\..*".into()));
    assert_eq!(with(last), all / 3);
    let dropped = with(LoraConfig::new(8, 16.0).with_dropout(0.1));
    // A mask and a masked copy of every input, 64, 64, 64, 64, 64, 64 and 176 wide, and `x A`, for those of two
    // norms and of SwiGLU.
    let own = 2 * (6 * 64 + 176) + 7 * 8;
    let shared = 2 * 64 + 176;
    assert_eq!(dropped - all, 3 * 2 * 64 * 4 * (own - shared));
}
