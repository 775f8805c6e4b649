//! `finetune train`.

use std::fs;

use crate::finetune;
use crate::support::{self, Place, log_lines, number};

#[test]
fn it_writes_an_adapter_and_a_line_a_step() {
    let place = Place::new();
    let (model, rows, log) = (
        place.model("tiny_llama"),
        place.rows(24),
        place.path("log.jsonl"),
    );
    let output = place.path("run");
    finetune!(
        "train",
        "--model",
        &model,
        "--data",
        &rows,
        "--output",
        &output,
        "--seq-len",
        "64",
        "--rank",
        "4",
        "--lr",
        "5e-3",
        "--steps",
        "12",
        "--grad-accum",
        "2",
        "--schedule",
        "cosine",
        "--warmup-steps",
        "2",
        "--eval-data",
        &rows,
        "--eval-every",
        "6",
        "--log-json",
        &log
    )
    .ok();
    let lines = log_lines(&log);
    let steps: Vec<f64> = lines.iter().map(|line| number(line, "step")).collect();
    assert_eq!(steps, (1..=12).map(f64::from).collect::<Vec<_>>());
    for line in &lines {
        let keys: Vec<&str> = line
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        for key in [
            "loss",
            "grad_norm",
            "lr",
            "tokens",
            "tokens_per_second",
            "peak_rss_bytes",
            "optimizer_state_bytes",
            "optimizer_resident_bytes",
            "optimizer_bytes_moved",
        ] {
            assert!(keys.contains(&key), "{key} in {keys:?}");
        }
        assert_eq!(keys.len(), 10);
        assert!(number(line, "grad_norm") > 0.0 && number(line, "tokens") > 0.0);
    }
    assert_eq!(number(&lines[0], "lr"), 0.0);
    assert_eq!(number(&lines[2], "lr"), 5e-3);
    assert!(number(&lines[11], "loss") < number(&lines[0], "loss") - 0.3);
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(output.join(name).is_file(), "{name}");
    }

    // The adapter that was written is the model that was trained.
    let loss = |adapter: bool| {
        let run = if adapter {
            finetune!(
                "eval",
                "--model",
                &model,
                "--data",
                &rows,
                "--json",
                "--adapter",
                &output
            )
        } else {
            finetune!("eval", "--model", &model, "--data", &rows, "--json")
        };
        number(&run.ok().last_json(), "nll")
    };
    assert!(loss(true) < loss(false) - 0.3);
}

/// The first loss is that of the run's first batch: nearer to the dense model's with LoftQ. A run that goes on has the same bits.
#[test]
fn loftq_starts_nearer_to_the_dense_model_and_goes_on() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(12));
    let train = |name: &str, more: &[&str]| {
        let log = place.path(&format!("{name}.jsonl"));
        let mut command = support::train(&model, &rows, &place.path(name));
        command.arg("--log-json").arg(&log);
        command.args(["--seq-len", "64", "--rank", "16", "--save-every", "2"]);
        let run = support::run(command.args(more)).ok();
        (number(&log_lines(&log)[0], "loss"), run.stdout)
    };
    let loftq = ["--init", "loftq", "--compute-dtype", "bf16", "--steps", "4"];
    let (dense, _) = train("dense", &["--quant", "none", "--steps", "1"]);
    let (plain, _) = train("plain", &["--steps", "1"]);
    let (fitted, told) = train("loftq", &loftq);
    assert!(
        (fitted - dense).abs() < (plain - dense).abs(),
        "dense {dense}, NF4 {plain}, LoftQ {fitted}"
    );
    assert!(told.contains("LoftQ: "), "{told}");

    let run = place.path("loftq");
    let text = fs::read_to_string(run.join("run.json")).unwrap();
    assert!(
        text.contains("\"init\": \"loftq\"") || text.contains("\"init\":\"loftq\""),
        "{text}"
    );
    let adapter = || fs::read(run.join("adapter_model.safetensors")).unwrap();
    let whole = adapter();
    fs::remove_dir_all(run.join("checkpoints/step-00000004")).unwrap();
    let (_, told) = train("loftq", &[&loftq[..], &["--resume"]].concat());
    assert!(
        !told.contains("LoftQ: "),
        "what a checkpoint holds is not fitted: {told}"
    );
    assert!(adapter() == whole);
    let flags = "--seq-len 64 --rank 16 --compute-dtype bf16 --steps 4 --resume";
    let mut plain = support::train(&model, &rows, &run);
    support::run(plain.args(flags.split(' '))).refused(&["init", "loftq"]);
}

/// `get_wsd_schedule(num_warmup_steps=2, num_training_steps=8, num_decay_steps=4, min_lr_ratio=0.2)` of transformers at lr
/// 1e-3, but for the warm-up.
#[test]
fn shares_of_the_steps_are_shares_of_all_of_them() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(8));
    let (output, log) = (place.path("run"), place.path("log.jsonl"));
    let flags = "--seq-len 32 --truncate --rank 2 --batch-size 1 --steps 8 --lr 1e-3 --schedule wsd --warmup-ratio 0.2 \
                 --decay-ratio 0.5 --min-lr 2e-4";
    let mut command = support::train(&model, &rows, &output);
    command.arg("--log-json").arg(&log);
    support::run(command.args(flags.split_whitespace())).ok();
    let rates = log_lines(&log);
    let rates = rates.iter().map(|line| number(line, "lr"));
    let expected = [
        0.0,
        5e-4,
        1e-3,
        1e-3,
        1e-3,
        2e-4 + 8e-4 * 0.853_553_390_593_273_8,
        6e-4,
        2e-4 + 8e-4 * 0.146_446_609_406_726_2,
    ];
    for (rate, expected) in rates.zip(expected) {
        assert!((rate - expected).abs() < 1e-12, "{rate} is not {expected}");
    }
}

#[test]
fn the_same_seed_gives_the_same_losses_and_another_does_not() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama_nf4"), place.rows(40));
    let losses = |name: &str, seed: &str| {
        let log = place.path(&format!("{name}.jsonl"));
        finetune!(
            "train",
            "--model",
            &model,
            "--data",
            &rows,
            "--output",
            place.path(name),
            "--seq-len",
            "64",
            "--steps",
            "5",
            "--dropout",
            "0.1",
            "--seed",
            seed,
            "--log-json",
            &log
        )
        .ok();
        log_lines(&log)
            .iter()
            .map(|line| number(line, "loss"))
            .collect::<Vec<_>>()
    };
    let first = losses("one", "1");
    assert_eq!(first, losses("two", "1"));
    assert_ne!(first, losses("three", "2"));
}

#[test]
fn a_config_file_stands_under_the_flags() {
    let place = Place::new();
    let (model, rows, log) = (
        place.model("tiny_llama"),
        place.rows(8),
        place.path("log.jsonl"),
    );
    let config = place.file(
        "run.toml",
        format!(
            "model = {:?}\ndata = {:?}\nsteps = 2\nlr = 0.5\nseq_len = 64\nrank = 2\n\
             target = [\"q_proj\", \"v_proj\"]\nrslora = true\n",
            model, rows
        ),
    );
    let output = place.path("run");
    finetune!(
        "train",
        "--config",
        &config,
        "--output",
        &output,
        "--lr",
        "1e-3",
        "--log-json",
        &log
    )
    .ok();
    let lines = log_lines(&log);
    assert_eq!(lines.len(), 2);
    assert_eq!(number(&lines[0], "lr"), 1e-3);
    let adapter = fs::read_to_string(output.join("adapter_config.json")).unwrap();
    let adapter: serde_json::Value = serde_json::from_str(&adapter).unwrap();
    assert_eq!(adapter["r"], 2);
    assert_eq!(adapter["use_rslora"], true);
    assert_eq!(
        adapter["target_modules"],
        serde_json::json!(["q_proj", "v_proj"])
    );
}

#[test]
fn a_text_is_cut_into_rows_and_an_adapter_can_be_trained_on() {
    let place = Place::new();
    let (model, text) = (place.model("tiny_llama"), place.text());
    let (first, second) = (place.path("first"), place.path("second"));
    finetune!(
        "train",
        "--model",
        &model,
        "--data",
        &text,
        "--output",
        &first,
        "--seq-len",
        "32",
        "--steps",
        "3",
        "--rank",
        "2",
        "--no-shuffle",
        "--target",
        "q_proj,k_proj"
    )
    .ok();
    let log = place.path("log.jsonl");
    finetune!(
        "train",
        "--model",
        &model,
        "--data",
        &text,
        "--output",
        &second,
        "--seq-len",
        "32",
        "--steps",
        "2",
        "--init-adapter",
        &first,
        "--log-json",
        &log,
        "--batch-size",
        "2"
    )
    .ok();
    // Two rows of 32 tokens.
    assert_eq!(number(&log_lines(&log)[0], "tokens"), 64.0);
    let config = fs::read_to_string(second.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["r"], 2, "rank and targets come from the adapter");
    assert_eq!(
        config["target_modules"],
        serde_json::json!(["q_proj", "k_proj"])
    );
}

/// Ranks that differ from layer to layer, and a head of the adapter's own where the model's is its embedding: trained on, saved,
/// planned, and read from a checkpoint's weight file.
#[test]
fn adapters_of_every_kind_can_be_trained_on() {
    let place = Place::new();
    let rows = place.rows(4);
    for (kind, model, key) in [
        ("patterns", "tiny_llama", "rank_pattern"),
        ("tied_head", "tiny_llama_tied", "modules_to_save"),
    ] {
        let (model, output) = (place.model(model), place.path(kind));
        let adapter = qlora_test_support::fixture(format!("adapters/{kind}"));
        let common = ["--seq-len", "32", "--quant", "none"];
        let start = |command: &str| {
            let mut start = std::process::Command::new(crate::support::FINETUNE);
            start
                .arg(command)
                .arg("--model")
                .arg(&model)
                .arg("--data")
                .arg(&rows);
            start.args(common);
            start
        };
        let mut train = start("train");
        train
            .arg("--init-adapter")
            .arg(&adapter)
            .arg("--output")
            .arg(&output);
        train.args(["--steps", "2", "--save-every", "1", "--lr", "1e-3"]);
        crate::support::run(&mut train).ok();
        let config = |folder: &std::path::Path| {
            let text = fs::read_to_string(folder.join("adapter_config.json")).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        assert_eq!(config(&output)[key], config(&adapter)[key]);

        let nll = |adapter: std::path::PathBuf| {
            let mut eval = start("eval");
            eval.arg("--json").arg("--adapter").arg(adapter);
            number(&crate::support::run(&mut eval).ok().last_json(), "nll")
        };
        let step = |step| output.join(format!("checkpoints/step-0000000{step}"));
        let losses = [adapter.clone(), step(1), output.clone()].map(nll);
        assert!(losses[0] > losses[1] && losses[1] > losses[2], "{losses:?}");
        assert_eq!(nll(step(2).join("adapter_model.safetensors")), losses[2]);

        let mut plan = start("plan");
        plan.arg("--init-adapter").arg(&output);
        crate::support::run(&mut plan).ok();
    }
}

#[test]
fn half_precision_trains_almost_alike_and_is_told() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(12));
    let train = |dtype: &str, extra: &[&str]| {
        let mut command = crate::support::train(&model, &rows, &place.path("half"));
        command
            .arg("--log-json")
            .arg(place.path(&format!("{dtype}.jsonl")))
            .args(["--seq-len", "32", "--steps", "3", "--lr", "5e-3"])
            .args(["--compute-dtype", dtype])
            .args(extra);
        crate::support::run(&mut command)
    };
    let losses = |dtype: &str| {
        let run = train(dtype, &[]).ok();
        assert!(
            run.stdout.contains(&format!("in {dtype} on flex")),
            "{}",
            run.stdout
        );
        fs::remove_dir_all(place.path("half")).unwrap();
        log_lines(&place.path(&format!("{dtype}.jsonl")))
            .iter()
            .map(|line| number(line, "loss"))
            .collect::<Vec<_>>()
    };
    let exact = losses("f32");
    let rounded = ["bf16", "f16", "int8"].map(|dtype| {
        let losses = losses(dtype);
        for (loss, exact) in losses.iter().zip(&exact) {
            assert!(
                (loss / exact - 1.0).abs() < 1e-2,
                "{dtype}: {loss} and {exact}"
            );
            assert_ne!(loss, exact, "{dtype}");
        }
        losses
    });
    assert_ne!(rounded[0], rounded[2], "int8 rounds more than bf16");
    // It decides what the run computes.
    train("bf16", &[]).ok();
    train("f32", &["--resume"]).refused(&["compute-dtype", "bf16", "f32"]);
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_and_flex_train_alike() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(12));
    let losses = |device: &str| {
        let log = place.path(&format!("{device}.jsonl"));
        finetune!(
            "train",
            "--model",
            &model,
            "--data",
            &rows,
            "--output",
            place.path(device),
            "--seq-len",
            "32",
            "--steps",
            "3",
            "--lr",
            "5e-3",
            "--device",
            device,
            "--log-json",
            &log
        )
        .ok();
        log_lines(&log)
            .iter()
            .map(|line| number(line, "loss"))
            .collect::<Vec<_>>()
    };
    for (flex, wgpu) in losses("flex").iter().zip(losses("wgpu")) {
        // The tolerance of the recorded curve on wgpu.
        assert!((wgpu / flex - 1.0).abs() < 1e-3, "{flex} and {wgpu}");
    }
}

/// One step over all examples, in rows of their own and in shared ones.
#[test]
fn packing_saves_rows_and_changes_no_loss() {
    let place = Place::new();
    let (model, rows) = (place.model("tiny_llama"), place.rows(24));
    let step = |name: &str, packing: Option<&str>| {
        let log = place.path(&format!("{name}.jsonl"));
        let run = finetune!(
            "train",
            "--model",
            &model,
            "--data",
            &rows,
            "--output",
            place.path(name),
            "--log-json",
            &log,
            "--seq-len",
            "128",
            "--batch-size",
            "24",
            "--steps",
            "1",
            packing.unwrap_or("--no-shuffle")
        )
        .ok();
        (log_lines(&log).remove(0), run.stdout)
    };
    let (apart, stdout) = step("apart", None);
    assert!(stdout.contains("on 24 rows"), "{stdout}");
    let (packed, stdout) = step("packed", Some("--packing"));
    let count = stdout.split_once(" on 24 examples in ").expect(&stdout).1;
    let count: usize = count.split(' ').next().unwrap().parse().unwrap();
    assert!(count <= 16, "{stdout}");
    assert_eq!(number(&packed, "tokens"), number(&apart, "tokens"));
    for key in ["loss", "grad_norm"] {
        let (packed, apart) = (number(&packed, key), number(&apart, key));
        assert!(
            (packed / apart - 1.0).abs() < 1e-5,
            "{key}: {packed}, {apart}"
        );
    }
}
