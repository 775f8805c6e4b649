//! The device memory of whole training steps, by where the optimizer's state and the weights are. Alone in its process, and one
//! test at a time, since the report is of the whole device.

#![cfg(feature = "cubecl-backend")]

use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use burn_cubecl::CubeDevice;
use burn_finetune::{Batch, TrainConfig, Trainer, TrainerBuilder};
use burn_paged::{Budget, PAGE_BYTES, WeightPages};
use burn_qlora::{Checkpointing, LoraConfig, QuantConfig, TokenBatch, attach_adapters};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions};
use cubecl::MemoryScope;
use qlora_test_support::{TestDevice, alone, fixture, runtime};
use qlora_tests::devices;
use serde_json::json;
use tensor_files::{Dtype, TensorSpool};

/// Adapters of a rank that makes their state, 29 MB, many pages.
const RANK: usize = 1024;

/// Returns the bytes that the device has set aside for tensors; pools keep what they once needed, so this is a peak.
fn reserved(device: &CubeDevice) -> u64 {
    let report = device.client().memory_report(MemoryScope::Device);
    let pools = report.streams.iter().map(|stream| stream.pools.usage());
    pools.map(|usage| usage.bytes_reserved).sum()
}

/// Bytes of state, and the most that three steps had set aside on the device.
fn state_and_peak(test: &TestDevice, budget: Budget) -> (u64, u64) {
    let device = &test.device;
    let report = &runtime(test.name);
    report.client().memory_cleanup().unwrap();
    let before = reserved(report);
    let autodiff = device.clone().autodiff();
    let checkpoint = Checkpoint::open(fixture("tiny_llama_nf4")).unwrap();
    let mut model = Decoder::load(&checkpoint, &LoadOptions::default(), &autodiff).unwrap();
    attach_adapters(&mut model, &LoraConfig::new(RANK, 1.0), 1).unwrap();
    let config = TrainConfig {
        steps: 3,
        ..TrainConfig::default()
    };
    let optimizer = config.adamw().with_budget(budget);
    let mut trainer = TrainerBuilder::new(model, config)
        .and_then(|builder| builder.with_optimizer(optimizer).build())
        .unwrap();
    let mut state = 0;
    let mut peak = 0;
    for _ in 0..3 {
        state = step(&mut trainer, [2, 64], &autodiff);
        peak = peak.max(reserved(report));
    }
    let peak = peak.saturating_sub(before);
    println!("{budget}: {peak} bytes, state {state}");
    (state, peak)
}

/// Takes a step on rows of ones, `[rows, tokens]`, and returns the bytes of the optimizer's state.
fn step(trainer: &mut Trainer<Decoder>, shape: [usize; 2], device: &Device) -> u64 {
    let ids = || Tensor::<2, Int>::ones(shape, device);
    let tokens = shape[0] * shape[1];
    let batch = Batch {
        tensors: TokenBatch {
            input_ids: ids(),
            starts: None,
            targets: ids(),
        },
        target_tokens: tokens,
        tokens,
    };
    let report = trainer.step(&[batch]).unwrap();
    device.sync().unwrap();
    report.optimizer_state_bytes
}

#[test]
fn the_peak_of_a_step_falls_by_the_state_less_two_pages() {
    let _alone = alone();
    for device in devices().iter().filter(|device| !device.is_flex()) {
        let (state, resident) = state_and_peak(device, Budget::Resident);
        let (_, streamed) = state_and_peak(device, Budget::Bytes(0));
        assert!(state > 10 * PAGE_BYTES as u64, "{state}");
        let fell = resident.saturating_sub(streamed);
        assert!(fell >= state - 2 * PAGE_BYTES as u64, "{fell} of {state}");
    }
}

/// Blocks of the model whose weights are paged.
const BLOCKS: usize = 12;

/// Writes a model of random weights, of which those of the blocks take 20 MB in 4 bits.
fn write_wide_model(folder: &Path) {
    let (hidden, inner, vocab) = (512, 1408, 256);
    let config = json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": BLOCKS,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": vocab, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut spool = TensorSpool::new(folder.join("model.safetensors"));
    let mut random = 1u32;
    let mut push = |name: &str, shape: &[usize]| {
        // bf16 from -0.031 to 0.031.
        let mut draw = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            [(random >> 24) as u8, 0x3c | (random >> 16 & 0x80) as u8]
        };
        let elements = shape.iter().product();
        let bytes: Vec<u8> = (0..elements).flat_map(|_| draw()).collect();
        let name = format!("{name}.weight");
        spool
            .push(name, Dtype::BF16, shape.to_vec(), &bytes)
            .unwrap();
    };
    for block in 0..BLOCKS {
        let mut push =
            |name: &str, shape: &[usize]| push(&format!("model.layers.{block}.{name}"), shape);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            push(&format!("self_attn.{name}"), &[hidden, hidden]);
        }
        push("mlp.gate_proj", &[inner, hidden]);
        push("mlp.up_proj", &[inner, hidden]);
        push("mlp.down_proj", &[hidden, inner]);
        push("input_layernorm", &[hidden]);
        push("post_attention_layernorm", &[hidden]);
    }
    push("model.embed_tokens", &[vocab, hidden]);
    push("lm_head", &[vocab, hidden]);
    push("model.norm", &[hidden]);
    spool.finish(None).unwrap();
}

/// Bytes of the packed weights, and the most that two steps had set aside on the device.
fn weights_and_peak(test: &TestDevice, model: &Checkpoint, budget: Budget) -> (u64, u64) {
    let report = &runtime(test.name);
    report.client().memory_cleanup().unwrap();
    let before = reserved(report);
    let device = test.device.clone().autodiff();
    let pages = WeightPages::in_memory(budget).unwrap();
    let options = LoadOptions::quantized(QuantConfig::default());
    let mut model = Decoder::load_paged(model, &options, &device, pages.clone()).unwrap();
    attach_adapters(&mut model, &LoraConfig::new(4, 1.0), 1).unwrap();
    let config = TrainConfig {
        steps: 2,
        ..TrainConfig::default()
    };
    let mut trainer = TrainerBuilder::new(model, config)
        .and_then(|builder| builder.with_checkpointing(Checkpointing::Layer)?.build())
        .unwrap();
    let mut peak = 0;
    for _ in 0..2 {
        step(&mut trainer, [1, 16], &device);
        peak = peak.max(reserved(report));
    }
    let weights = pages.take_report().weight_bytes;
    let peak = peak.saturating_sub(before);
    println!("{budget} on {}: {peak} bytes, weights {weights}", test.name);
    (weights, peak)
}

/// Of weights that do not stay, the device has those of the block that a graph is of, and its allocator keeps room for as many
/// again.
#[test]
fn the_peak_of_a_step_falls_by_the_weights_less_two_blocks() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    write_wide_model(folder.path());
    let model = Checkpoint::open(folder.path()).unwrap();
    for device in devices().iter().filter(|device| !device.is_flex()) {
        let (weights, resident) = weights_and_peak(device, &model, Budget::Resident);
        let (_, paged) = weights_and_peak(device, &model, Budget::Bytes(0));
        let fell = resident.saturating_sub(paged);
        let blocks = 2 * weights / BLOCKS as u64;
        assert!(fell >= weights - blocks, "{fell} of {weights}");
    }
}
