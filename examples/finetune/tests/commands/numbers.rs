//! Numbers at the ends of their ranges: refused by name or computed with, never a panic and never an abort.

use crate::finetune;
use crate::support::Place;

const LARGEST: &str = "18446744073709551615";

#[test]
fn numbers_that_cannot_work_are_refused_by_name() {
    let place = Place::new();
    let (model, rows, output) = (place.model("tiny_llama"), place.rows(4), place.path("out"));
    let quarter = "4611686018427387904";
    for (flags, needles) in [
        (vec!["--rank", LARGEST], ["rank", LARGEST]),
        (vec!["--rank", "288230376151711744"], ["rank", "1048576"]),
        (vec!["--rank", "100000000"], ["rank", "1048576"]),
        (
            vec!["--rank", "18446744073709551616"],
            ["--rank", "whole number"],
        ),
        (vec!["--alpha", "1e300"], ["alpha", "scale"]),
        (vec!["--alpha", "1e-300"], ["alpha", "scale"]),
        (
            vec!["--batch-size", quarter, "--grad-accum", "4"],
            ["gradient accumulation", "64 bits"],
        ),
        (vec!["--seq-len", LARGEST], ["--seq-len", "512"]),
        (
            vec!["--schedule", "cosine", "--min-lr", "1"],
            ["minimum learning rate", "at most the learning rate"],
        ),
        (
            vec!["--device-memory", "99999999999GB"],
            ["--device-memory", "bytes"],
        ),
        (
            vec!["--optimizer-budget", "1e99%"],
            ["--optimizer-budget", "1e99%"],
        ),
    ] {
        let run =
            finetune!("train", "--model", &model, "--data", &rows, "--output", &output; &flags);
        run.refused(&needles);
        assert!(!output.exists(), "{flags:?}: something was written");
    }
}

#[test]
fn the_largest_numbers_that_can_work_do() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(4));
    // A batch has no more rows than there are; what is counted in steps never comes.
    let flags = vec![
        "--batch-size",
        LARGEST,
        "--save-every",
        LARGEST,
        "--eval-every",
        LARGEST,
        "--warmup-steps",
        LARGEST,
        "--seed",
        LARGEST,
        "--max-grad-norm",
        "1e308",
        "--optimizer",
        "paged-adamw",
        "--optimizer-budget",
        LARGEST,
        "--steps",
        "2",
    ];
    let output = place.path("out");
    finetune!(
        "train", "--model", &model, "--data", &rows, "--eval-data", &rows, "--output", &output; flags
    )
    .ok();
    let flags = vec!["--batch-size", LARGEST, "--max-rows", LARGEST];
    finetune!("eval", "--model", &model, "--data", &rows; flags).ok();
    for flags in [
        vec![
            "--batch-size",
            LARGEST,
            "--rank",
            "1048576",
            "--checkpointing",
            "layer",
        ],
        vec![
            "--steps",
            LARGEST,
            "--device-memory",
            LARGEST,
            "--optimizer",
            "paged-adamw",
        ],
        vec![
            "--epochs",
            "1e308",
            "--optimizer",
            "paged-adamw-8bit",
            "--optimizer-budget",
            LARGEST,
        ],
    ] {
        finetune!("plan", "--model", &model; flags).ok();
    }
}
