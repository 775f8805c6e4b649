//! The device memory of whole training steps, by where the optimizer's state is. Alone in its process, since
//! the report is of the whole device.

#![cfg(feature = "cubecl-backend")]

use burn::tensor::{Int, Tensor};
use burn_cubecl::CubeDevice;
use burn_finetune::{Batch, TrainConfig, TrainerBuilder};
use burn_paged::{Budget, PAGE_BYTES};
use burn_qlora::{LoraConfig, TokenBatch, attach_adapters};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions};
use cubecl::MemoryScope;
use qlora_test_support::{TestDevice, fixture, runtime};
use qlora_tests::devices;

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
    let ids = || Tensor::<2, Int>::ones([2, 64], &autodiff);
    let mut state = 0;
    let mut peak = 0;
    for _ in 0..3 {
        let batch = Batch {
            tensors: TokenBatch {
                input_ids: ids(),
                starts: None,
                targets: ids(),
            },
            target_tokens: 128,
            tokens: 128,
        };
        state = trainer.step(&[batch]).unwrap().optimizer_state_bytes;
        device.sync().unwrap();
        peak = peak.max(reserved(report));
    }
    let peak = peak.saturating_sub(before);
    println!("{budget}: {peak} bytes, state {state}");
    (state, peak)
}

#[test]
fn the_peak_of_a_step_falls_by_the_state_less_two_pages() {
    for device in devices().iter().filter(|device| !device.is_flex()) {
        let (state, resident) = state_and_peak(device, Budget::Resident);
        let (_, streamed) = state_and_peak(device, Budget::Bytes(0));
        assert!(state > 10 * PAGE_BYTES as u64, "{state}");
        let fell = resident.saturating_sub(streamed);
        assert!(fell >= state - 2 * PAGE_BYTES as u64, "{fell} of {state}");
    }
}
