//! The memory plan on a CubeCL device against what the device's own allocator tells.

use std::process::Command;

use crate::support::{FINETUNE, Place, log_lines, number, printed_bytes, run};

/// In settings that vary batch, length, checkpointing and optimizer, and in families whose blocks have more norms, windows and
/// fused projections. Two steps: pages that the first one outgrew are
/// gone in the second.
#[test]
fn the_reported_peak_is_within_a_tenth_of_the_plan() {
    let place = Place::new();
    let text = place.long_text();
    for (name, model, flags) in [
        ("whole", "tiny_llama", "--batch-size 4 --seq-len 512"),
        (
            "layer",
            "tiny_llama",
            "--batch-size 8 --seq-len 256 --checkpointing layer --optimizer paged-adamw-8bit",
        ),
        (
            "paged",
            "tiny_llama",
            "--batch-size 8 --seq-len 128 --rank 64 --optimizer paged-adamw --optimizer-budget 0",
        ),
        (
            "short",
            "tiny_llama",
            "--batch-size 16 --seq-len 64 --checkpointing layer --rank 64",
        ),
        ("norms", "families/gemma3", "--batch-size 8 --seq-len 256"),
        (
            "fused",
            "families/phi3",
            "--batch-size 8 --seq-len 256 --checkpointing layer",
        ),
    ] {
        let model = place.model(model);
        let log = place.path(&format!("{name}.jsonl"));
        let finetune = |command: &str| {
            let mut process = Command::new(FINETUNE);
            process.arg(command).arg("--model").arg(&model);
            process.arg("--data").arg(&text);
            process.arg("--output").arg(place.path(name));
            process.arg("--log-json").arg(&log);
            process.args(["--device", "wgpu", "--steps", "2"]);
            run(process.args(flags.split(' '))).ok()
        };
        let planned = printed_bytes(&finetune("plan").stdout, "peak ");
        let told = finetune("train").stdout;
        assert!(told.contains(" on wgpu, measured "), "{told}");
        assert!(told.contains(" by the device"), "{told}");
        let measured = number(log_lines(&log).last().unwrap(), "peak_device_bytes");
        let error = measured / planned - 1.0;
        println!("{name}: planned {planned}, measured {measured}: {error:+.3}");
        assert!(error.abs() < 0.1, "{name}: off by {error}");
    }
}
