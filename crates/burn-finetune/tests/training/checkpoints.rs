//! Stopping and going on.

use crate::runs::{DROPOUT, create, resume, run, settings};
use crate::support::{Toy, config, trainer};
use burn::tensor::Device;
use burn_finetune::{
    Dataset, FinetuneError, OptimizerKind, Outcome, Row, RunDir, RunOptions, TrainConfig, Trainer,
};
use burn_qlora::LoraModel;
use serde_json::{Value, json};
use std::fs;

pub fn stopped_and_resumed_is_not_stopped(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = trainer(device, DROPOUT, 13);
    let (outcome, expected, saved) = run(&mut whole, &create(&dir.path().join("whole")), None);
    assert_eq!(outcome, Outcome::Finished);
    assert_eq!(saved, [4, 8, 12, 13]);

    let path = dir.path().join("stopped");
    let mut first = trainer(device, DROPOUT, 13);
    let (outcome, mut losses, saved) = run(&mut first, &create(&path), Some(7));
    assert_eq!(outcome, Outcome::Interrupted { step: 7 });
    assert_eq!(saved, [4, 7]);
    drop(first);
    let run_dir = resume(&path);
    let mut second = trainer(device, DROPOUT, 13);
    assert_eq!(run_dir.restore(&mut second).unwrap(), 7);
    losses.extend(run(&mut second, &run_dir, None).1);
    assert_eq!(losses, expected);
    assert_eq!(second.model().factors(), whole.model().factors());

    run_dir.save_adapter(second.model()).unwrap();
    let mut loaded = Toy::new(device, 0.0);
    burn_qlora::peft::load(&mut loaded, &path).unwrap();
    assert_eq!(loaded.factors(), whole.model().factors());
    // A finished run has nothing left to do.
    assert_eq!(run(&mut second, &run_dir, None).1, Vec::<f64>::new());
}

pub fn every_optimizer_goes_on_from_its_state(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    for optimizer in [
        OptimizerKind::Lion,
        OptimizerKind::Muon,
        OptimizerKind::Adafactor,
    ] {
        let with = |optimizer| {
            let config = TrainConfig {
                optimizer,
                lora_plus_ratio: 4.0,
                lr: 2e-3,
                ..config(6)
            };
            Trainer::new(Toy::new(device, DROPOUT), config).unwrap()
        };
        let folder = dir.path().join(optimizer.to_string());
        let mut whole = with(optimizer);
        let (_, losses, _) = run(&mut whole, &create(&folder.join("whole")), None);
        // Each epoch takes two steps.
        let [first, last] = [0, 4].map(|step| losses[step] + losses[step + 1]);
        assert!(last < first, "{optimizer}: {losses:?}");
        let path = folder.join("stopped");
        let mut first = with(optimizer);
        let run_dir = create(&path);
        run(&mut first, &run_dir, Some(3));
        drop(run_dir);
        let run_dir = resume(&path);
        let mut second = with(optimizer);
        assert_eq!(run_dir.restore(&mut second).unwrap(), 3);
        run(&mut second, &run_dir, None);
        assert_eq!(
            second.model().factors(),
            whole.model().factors(),
            "{optimizer}"
        );

        // The state of one is not another's, and one that is damaged is not taken.
        let mut other = with(OptimizerKind::AdamW);
        let error = run_dir.restore(&mut other).unwrap_err().to_string();
        assert!(error.contains("optimizer.safetensors"), "{error}");
        let mut third = with(optimizer);
        let file = path.join("checkpoints/step-00000006/optimizer.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 0x40;
        fs::write(&file, bytes).unwrap();
        assert!(run_dir.restore(&mut third).is_err());
    }
}

pub fn a_longer_run_goes_on_as_if_it_had_been_meant(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = trainer(device, DROPOUT, 13);
    run(&mut whole, &create(&dir.path().join("whole")), None);
    let path = dir.path().join("grown");
    let mut short = settings();
    short.config.steps = 6;
    let run_dir = RunDir::create(&path, &short).unwrap();
    run(&mut trainer(device, DROPOUT, 6), &run_dir, None);
    drop(run_dir);
    let run_dir = resume(&path);
    let mut grown = trainer(device, DROPOUT, 13);
    assert_eq!(run_dir.restore(&mut grown).unwrap(), 6);
    run(&mut grown, &run_dir, None);
    assert_eq!(grown.model().factors(), whole.model().factors());
}

/// A run whose held-out rows have a token that makes the loss no number, and one whose rate grows beyond all measure.
pub fn what_was_learnt_is_saved_before_numbers_are_none(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let mut toy = Toy::new(device, DROPOUT);
    toy.spoil(crate::support::VOCAB - 1);
    let eval = Dataset::from_rows(vec![
        Row::all(vec![0, 1, 2]),
        Row::all(vec![0, 1]),
        Row::all(vec![0, 1]),
        Row::all(vec![3, crate::support::VOCAB as u32 - 1, 3]),
    ]);
    let data = Dataset::from_rows((0..6).map(|_| Row::all(vec![0, 1, 4])).collect());
    let run_dir = create(&dir.path().join("eval"));
    let mut trainer = Trainer::new(toy.clone(), config(5)).unwrap();
    let options = RunOptions {
        run_dir: Some(&run_dir),
        eval: Some(&eval),
        eval_every: Some(2),
        ..RunOptions::default()
    };
    let error = trainer.run(&data, &options, &mut |_| ()).unwrap_err();
    assert!(
        matches!(&error, FinetuneError::EvalNotFinite { rows, .. } if rows == &["row 4"]),
        "{error}"
    );
    assert_eq!(run_dir.checkpoints().unwrap()[0].0, 2);

    // The rows of the third step: 12 to 17.
    let mut bad: Vec<Row> = (0..18).map(|_| Row::all(vec![0, 1, 4])).collect();
    bad[15] = Row::all(vec![0, crate::support::VOCAB as u32 - 1, 4]);
    let mut in_order = config(5);
    in_order.shuffle = false;
    let mut trainer = Trainer::new(toy, in_order).unwrap();
    let run_dir = create(&dir.path().join("train"));
    let options = RunOptions {
        run_dir: Some(&run_dir),
        ..RunOptions::default()
    };
    let error = trainer
        .run(&Dataset::from_rows(bad), &options, &mut |_| ())
        .unwrap_err();
    let FinetuneError::NotFinite { step: 3, rows, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(rows.first().map(String::as_str), Some("row 13"));
    assert_eq!(rows.len(), 6);
    assert_eq!(trainer.steps_done(), 2);
    assert_eq!(run_dir.checkpoints().unwrap()[0].0, 2);

    let mut absurd = config(2);
    absurd.warmup_steps = 0;
    absurd.lr = 1e39;
    let mut trainer = Trainer::new(Toy::new(device, DROPOUT), absurd).unwrap();
    let before = trainer.model().factors();
    let run_dir = create(&dir.path().join("absurd"));
    let options = RunOptions {
        run_dir: Some(&run_dir),
        ..RunOptions::default()
    };
    let error = trainer.run(&data, &options, &mut |_| ()).unwrap_err();
    assert!(
        matches!(error, FinetuneError::UpdateTooLarge { step: 1, .. }),
        "{error}"
    );
    assert_eq!(trainer.model().factors(), before);
    assert_eq!(run_dir.checkpoints().unwrap().len(), 0);
}

pub fn adapters_that_are_not_finite_are_not_saved(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = create(dir.path());
    let mut toy = Toy::new(device, 0.0);
    for (_, linear) in toy.lora_linears_mut() {
        let branch = linear.adapter.as_mut().unwrap();
        branch.lora.a = branch.lora.a.clone().map(|a| a.full_like(f32::NAN));
    }
    let error = run_dir.save_adapter(&toy).unwrap_err();
    assert!(
        matches!(&error, FinetuneError::AdapterNotFinite { layer } if layer == "mix"),
        "{error}"
    );
    let error = run_dir
        .save(&Trainer::new(toy, config(1)).unwrap())
        .unwrap_err();
    assert!(
        matches!(error, FinetuneError::AdapterNotFinite { .. }),
        "{error}"
    );
    assert!(run_dir.checkpoints().unwrap().is_empty());
}

pub fn a_failed_save_leaves_the_last_checkpoint(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = create(dir.path());
    let mut trainer = trainer(device, DROPOUT, 9);
    run(&mut trainer, &run_dir, Some(5));
    let checkpoints = run_dir.checkpoints().unwrap();
    assert_eq!(checkpoints.len(), 2);
    // A file where the unfinished checkpoint would be written.
    let folder = dir.path().join("checkpoints");
    fs::write(folder.join(".unfinished-00000005"), "").unwrap();
    let error = run_dir.save(&trainer).unwrap_err();
    assert!(matches!(error, FinetuneError::Write { .. }), "{error}");
    assert_eq!(run_dir.checkpoints().unwrap(), checkpoints);
    run_dir.restore(&mut trainer).unwrap();
}

pub fn broken_checkpoints_are_refused(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = create(dir.path());
    let mut trainer = trainer(device, DROPOUT, 5);
    let error = run_dir.restore(&mut trainer).unwrap_err();
    assert!(
        matches!(error, FinetuneError::NothingToResume { .. }),
        "{error}"
    );
    run(&mut trainer, &run_dir, None);
    let (_, last) = run_dir.checkpoints().unwrap().pop().unwrap();
    let before = trainer.model().factors();
    let mut refused = |name: &str, damaged: Vec<u8>| {
        let file = last.join(name);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, damaged).unwrap();
        let error = run_dir.restore(&mut trainer).unwrap_err();
        fs::write(&file, bytes).unwrap();
        let way = format!("remove {} to go on from step 4", last.display());
        assert!(error.to_string().contains(&way), "{error}");
        let FinetuneError::Checkpoint { source, .. } = error else {
            panic!("{error}");
        };
        assert!(
            matches!(&*source, FinetuneError::Malformed { path, .. } if *path == file),
            "{source}"
        );
        source.to_string()
    };
    let names = [
        "optimizer.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    ];
    for name in names {
        let mut bytes = fs::read(last.join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        refused(name, bytes.clone());
        bytes.pop();
        refused(name, bytes);
    }
    let mut bytes = fs::read(last.join("state.json")).unwrap();
    bytes.pop();
    refused("state.json", bytes);
    let state = |state: Value| serde_json::to_vec(&state).unwrap();
    let reason = refused("state.json", state(json!({"step": 4})));
    assert!(
        reason.contains("step 4") && reason.contains("step 5"),
        "{reason}"
    );

    // Without checksums, as older versions wrote them, the numbers themselves are looked at.
    let old = state(json!({"step": 5}));
    fs::write(last.join("state.json"), &old).unwrap();
    run_dir.restore(&mut trainer).unwrap();
    assert_eq!(trainer.model().factors(), before);
    for (name, from, to, needle) in [
        (
            "adapter_config.json",
            "\"lora_alpha\": 8",
            "\"lora_alpha\": 80",
            "lora_alpha is 80",
        ),
        ("adapter_config.json", "\"r\": 4", "\"r\": 2", ""),
    ] {
        let text = fs::read_to_string(last.join(name)).unwrap();
        assert!(text.contains(from), "{text}");
        let file = last.join(name);
        fs::write(&file, text.replace(from, to)).unwrap();
        let error = run_dir.restore(&mut trainer).unwrap_err().to_string();
        assert!(
            error.contains(needle) && error.contains("to go on from step 4"),
            "{error}"
        );
        fs::write(&file, text).unwrap();
    }
    let moments = last.join("optimizer.safetensors");
    let whole = fs::read(&moments).unwrap();
    for (place, value, needle) in [
        // The last is one of the second moments, the counts are the first.
        (whole.len() - 4, f32::NAN.to_le_bytes(), "is NaN"),
        (whole.len() - 4, (-1.0f32).to_le_bytes(), "is -1"),
        (data_start(&whole), 7u32.to_le_bytes(), "of 7 steps"),
    ] {
        let mut bytes = whole.clone();
        bytes[place..place + 4].copy_from_slice(&value);
        fs::write(&moments, bytes).unwrap();
        let error = run_dir.restore(&mut trainer).unwrap_err().to_string();
        assert!(
            error.contains(needle) && error.contains("optimizer.safetensors"),
            "{error}"
        );
    }
    fs::write(&moments, whole).unwrap();
    run_dir.restore(&mut trainer).unwrap();
}

/// Where the values of a safetensors file begin.
fn data_start(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}
