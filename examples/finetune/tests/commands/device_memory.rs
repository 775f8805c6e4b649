//! The memory plan on a CubeCL device against what the device's own allocator tells.

use std::process::Command;

use crate::support::{FINETUNE, Place, log_lines, number, printed_bytes, run};

/// In four settings that vary batch, length, checkpointing and optimizer. Two steps: pages that the first one outgrew are
/// gone in the second.
#[test]
fn the_reported_peak_is_within_a_tenth_of_the_plan() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.long_text());
    for (name, flags) in [
        ("whole", "--batch-size 4 --seq-len 512"),
        (
            "layer",
            "--batch-size 8 --seq-len 256 --checkpointing layer --optimizer paged-adamw-8bit",
        ),
        (
            "paged",
            "--batch-size 8 --seq-len 128 --rank 64 --optimizer paged-adamw --optimizer-budget 0",
        ),
        (
            "short",
            "--batch-size 16 --seq-len 64 --checkpointing layer --rank 64",
        ),
    ] {
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
