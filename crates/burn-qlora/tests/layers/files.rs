//! peft's files.

use crate::support::{Pair, input};
use burn::tensor::Device;
use burn_qlora::{LoraConfig, LoraError, Targets, peft};
use qlora_test_support::values;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn config() -> LoraConfig {
    LoraConfig::new(4, 8.5).with_dropout(0.1).with_rslora(true)
}

/// A saved adapter.
fn saved(device: &Device) -> (Pair, tempfile::TempDir) {
    let pair = Pair::adapted(device, &config());
    let dir = tempfile::tempdir().unwrap();
    peft::save(&pair, &config(), "base", dir.path()).unwrap();
    (pair, dir)
}

fn read_config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join(peft::CONFIG_FILE)).unwrap()).unwrap()
}

fn change_config(dir: &Path, key: &str, value: Value) {
    let mut config = read_config(dir);
    config[key] = value;
    fs::write(dir.join(peft::CONFIG_FILE), config.to_string()).unwrap();
}

pub fn an_adapter_comes_back_as_it_went(device: &Device) {
    let (pair, dir) = saved(device);
    let written = read_config(dir.path());
    assert_eq!(written["target_modules"], json!(["first", "second"]));
    assert_eq!(written["lora_alpha"], json!(8.5));
    let bytes = fs::read(dir.path().join(peft::WEIGHTS_FILE)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let key = "base_model.model.block.first.lora_A.weight";
    assert_eq!(file.tensor(key).unwrap().shape(), [4, crate::support::IN]);

    let mut loaded = Pair::new(device);
    let got = peft::load(&mut loaded, dir.path()).unwrap();
    let names = ["first", "second"].map(str::to_owned).to_vec();
    assert_eq!(got, config().with_targets(Targets::Names(names)));
    let lora = |pair: &Pair| {
        let lora = &pair.second.adapter.as_ref().unwrap().lora;
        (values(lora.a.val()), values(lora.b.val()), lora.scale)
    };
    assert_eq!(lora(&loaded), lora(&pair));

    // Saving over an adapter replaces it.
    peft::save(&loaded, &got, "base", dir.path()).unwrap();
    for targets in [json!("all-linear"), json!(".*first|.*second")] {
        change_config(dir.path(), "target_modules", targets);
        let mut again = Pair::new(device);
        peft::load(&mut again, dir.path()).unwrap();
        assert_eq!(lora(&again), lora(&pair));
    }
    // What is loaded can be trained and used.
    assert_eq!(
        loaded.forward(input(2, device)).dims(),
        [2, crate::support::OUT]
    );
}

pub fn adapters_of_other_models_are_refused(device: &Device) {
    let (_, dir) = saved(device);
    let mut pair = Pair::new(device);
    let mut reason_of = |key: &str, value: Value| {
        let kept = fs::read(dir.path().join(peft::CONFIG_FILE)).unwrap();
        change_config(dir.path(), key, value);
        let error = peft::load(&mut pair, dir.path()).unwrap_err();
        fs::write(dir.path().join(peft::CONFIG_FILE), kept).unwrap();
        assert!(matches!(error, LoraError::AnotherModel { .. }), "{error}");
        assert!(pair.first.adapter.is_none() && pair.second.adapter.is_none());
        error.to_string()
    };
    let shape = reason_of("r", json!(5));
    assert!(
        shape.contains("has shape [4, 24], but the layer needs [5, 24]"),
        "{shape}"
    );
    let extra = reason_of("target_modules", json!(["first"]));
    assert!(
        extra.contains("`base_model.model.block.second.lora_"),
        "{extra}"
    );
    let unknown = reason_of("target_modules", json!(["first", "third"]));
    assert!(
        unknown.contains("no linear layer is called `third`"),
        "{unknown}"
    );
}

pub fn what_cannot_be_computed_is_refused_by_name(device: &Device) {
    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({"first": 2})),
        ("peft_type", json!("IA3")),
    ] {
        let (_, dir) = saved(device);
        change_config(dir.path(), key, value);
        let error = peft::load(&mut Pair::new(device), dir.path()).unwrap_err();
        assert!(
            matches!(&error, LoraError::UnsupportedAdapter { key: named, .. } if named == key),
            "{error}"
        );
    }
}

pub fn broken_files_are_refused(device: &Device) {
    let (_, dir) = saved(device);
    let mut pair = Pair::new(device);
    let weights = dir.path().join(peft::WEIGHTS_FILE);
    let bytes = fs::read(&weights).unwrap();
    for length in [0, 7, 100, bytes.len() - 1] {
        fs::write(&weights, &bytes[..length]).unwrap();
        let error = peft::load(&mut pair, dir.path()).unwrap_err();
        assert!(matches!(error, LoraError::Malformed { .. }), "{error}");
    }
    fs::remove_file(&weights).unwrap();
    let error = peft::load(&mut pair, dir.path()).unwrap_err();
    assert!(matches!(error, LoraError::Read { .. }), "{error}");
    fs::write(dir.path().join(peft::CONFIG_FILE), "{\"r\": 4").unwrap();
    let error = peft::load(&mut pair, dir.path()).unwrap_err();
    assert!(matches!(error, LoraError::Malformed { .. }), "{error}");
}

pub fn what_would_be_described_wrongly_is_not_saved(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("new");
    let error = peft::save(&Pair::new(device), &config(), "base", &into).unwrap_err();
    assert!(matches!(error, LoraError::NoAdapters), "{error}");
    let pair = Pair::adapted(device, &config());
    for (other, differs) in [
        (config().with_dropout(0.0), "dropout"),
        (config().with_rslora(false), "scale"),
        (
            LoraConfig {
                rank: 5,
                ..config()
            },
            "rank",
        ),
    ] {
        let error = peft::save(&pair, &other, "base", &into).unwrap_err();
        assert!(
            matches!(&error, LoraError::AnotherConfig { field, .. } if *field == differs),
            "{error}"
        );
    }
    assert!(!into.exists());
}

pub fn a_failed_save_leaves_nothing_behind(device: &Device) {
    let pair = Pair::adapted(device, &config());
    let dir = tempfile::tempdir().unwrap();
    // A folder under the name of the second file: it cannot be replaced by a file.
    fs::create_dir_all(dir.path().join(peft::CONFIG_FILE).join("x")).unwrap();
    let error = peft::save(&pair, &config(), "base", dir.path()).unwrap_err();
    assert!(matches!(error, LoraError::Write { .. }), "{error}");
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
