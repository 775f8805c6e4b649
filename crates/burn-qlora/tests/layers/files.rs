//! peft's files.

use crate::support::{Pair, input};
use burn::tensor::Device;
use burn_qlora::{LoraConfig, LoraError, Targets, peft};
use qlora_test_support::{block_on, values};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tensor_files::TensorFileError;

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
    for files in [
        peft::to_files(&pair, &config(), "base"),
        block_on(peft::to_files_async(&pair, &config(), "base")),
    ] {
        let files = files.unwrap();
        assert_eq!(files.weights, bytes);
        let config: Value = serde_json::from_str(&files.config).unwrap();
        assert_eq!(config, written);
    }
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
    let unknown = reason_of("target_modules", json!(["third"]));
    assert!(
        unknown.contains("no linear layer is called `third`"),
        "{unknown}"
    );
}

pub fn what_cannot_be_computed_is_refused_by_name(device: &Device) {
    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("some")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("peft_type", json!("IA3")),
        ("a_key_of_the_future", json!(true)),
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

/// A tensor of an adapter: its name, its shape and its values.
type Factor = (String, Vec<usize>, Vec<f32>);
type Factors = Vec<Factor>;

/// The factors of a saved adapter, by the names that `rename` gives them.
fn factors(dir: &Path, rename: impl Fn(&str) -> String) -> Factors {
    let bytes = fs::read(dir.join(peft::WEIGHTS_FILE)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |bytes: &[u8]| {
        let words = bytes.chunks_exact(4);
        words
            .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
            .collect()
    };
    let mut factors: Factors = file
        .iter()
        .map(|(name, view)| (rename(name), view.shape().to_vec(), values(view.data())))
        .collect();
    factors.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    factors
}

fn write_factors(path: &Path, factors: &Factors) {
    let bytes: Vec<Vec<u8>> = factors
        .iter()
        .map(|(_, _, values)| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let views = factors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn bits(pair: &Pair) -> Vec<f32> {
    [&pair.first, &pair.second]
        .into_iter()
        .flat_map(|linear| {
            let lora = &linear.adapter.as_ref().unwrap().lora;
            [lora.a.val(), lora.b.val()]
        })
        .flat_map(values)
        .collect()
}

pub fn the_names_of_other_writers_are_read(device: &Device) {
    let (pair, dir) = saved(device);
    let path = dir.path().join(peft::WEIGHTS_FILE);
    let plain = factors(dir.path(), str::to_owned);
    for rename in [
        |name: &str| name.replace(".weight", ".default.weight"),
        |name: &str| name.replace("base_model.model.", ""),
        |name: &str| name.replace("base_model.model.", "base_model.model._orig_mod."),
        |name: &str| format!("module.{name}"),
        |name: &str| name.replace("block.", "block._fsdp_wrapped_module."),
        |name: &str| name.replace("block.", ""),
    ] {
        let renamed: Factors = plain
            .iter()
            .map(|(name, shape, values)| (rename(name), shape.clone(), values.clone()))
            .collect();
        write_factors(&path, &renamed);
        let mut loaded = Pair::new(device);
        peft::load(&mut loaded, dir.path()).unwrap();
        assert_eq!(bits(&loaded), bits(&pair), "{}", renamed[0].0);
    }
    // Two adapters in one file.
    let other = plain.iter().map(|(name, shape, values)| {
        (
            name.replace(".weight", ".b.weight"),
            shape.clone(),
            values.clone(),
        )
    });
    let both: Factors = plain.iter().cloned().chain(other).collect();
    write_factors(&path, &both);
    let error = peft::load(&mut Pair::new(device), dir.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("are the same factor of one layer"),
        "{error}"
    );
}

pub fn adapters_of_mlx_lm_are_read(device: &Device) {
    let (pair, dir) = saved(device);
    let mlx = tempfile::tempdir().unwrap();
    let renamed = factors(dir.path(), |name| {
        let name = name.replace("base_model.model.", "");
        name.replace("lora_A.weight", "lora_a")
            .replace("lora_B.weight", "lora_b")
    });
    let transposed: Factors = renamed
        .into_iter()
        .map(|(name, shape, values)| {
            let [rows, columns] = shape[..] else {
                panic!("{name}")
            };
            let at = |place: usize| values[place % rows * columns + place / rows];
            (
                name,
                vec![columns, rows],
                (0..values.len()).map(at).collect(),
            )
        })
        .collect();
    write_factors(&mlx.path().join("adapters.safetensors"), &transposed);
    // alpha / √rank
    let scale = 8.5 / 2.0;
    let config = |parameters: Value| json!({"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters});
    let write = |config: &Value| {
        fs::write(mlx.path().join(peft::CONFIG_FILE), config.to_string()).unwrap();
    };
    write(&config(json!({"rank": 4, "scale": scale, "dropout": 0.1})));
    for path in [
        mlx.path().to_owned(),
        mlx.path().join("adapters.safetensors"),
    ] {
        let mut loaded = Pair::new(device);
        let got = peft::load(&mut loaded, path).unwrap();
        assert_eq!(bits(&loaded), bits(&pair));
        let lora = &loaded.second.adapter.as_ref().unwrap().lora;
        assert_eq!(lora.scale, pair.second.adapter.as_ref().unwrap().lora.scale);
        // It is written as peft has it.
        let out = tempfile::tempdir().unwrap();
        peft::save(&loaded, &got, "base", out.path()).unwrap();
        assert_eq!(
            read_config(out.path())["target_modules"],
            json!(["first", "second"])
        );
    }
    for (parameters, key) in [
        (
            json!({"rank": 4, "scale": 10.0, "alpha": 16.0}),
            "lora_parameters.alpha",
        ),
        (json!({"rank": 4}), "missing field `scale`"),
        (
            json!({"rank": 3, "scale": 1.0}),
            "rank is 4 in the file and 3 here",
        ),
    ] {
        write(&config(parameters));
        let error = peft::load(&mut Pair::new(device), mlx.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains(key), "{error}");
    }
    write(&config(json!({"rank": 4, "scale": scale})));
    write_factors(&mlx.path().join("adapters.safetensors"), &Factors::new());
    let empty = peft::load(&mut Pair::new(device), mlx.path()).unwrap_err();
    assert!(matches!(empty, LoraError::AnotherModel { .. }), "{empty}");
    for kind in ["dora", "full"] {
        write(&json!({"fine_tune_type": kind, "num_layers": 4}));
        let error = peft::load(&mut Pair::new(device), mlx.path()).unwrap_err();
        assert!(
            matches!(&error, LoraError::UnsupportedAdapter { key, .. } if key == "fine_tune_type"),
            "{error}"
        );
    }
}

pub fn damaged_factors_are_refused_by_name(device: &Device) {
    let (_, dir) = saved(device);
    let path = dir.path().join(peft::WEIGHTS_FILE);
    let plain = factors(dir.path(), str::to_owned);
    let reason_of = |change: &dyn Fn(&mut Factors)| {
        let mut changed = plain.clone();
        change(&mut changed);
        write_factors(&path, &changed);
        let mut pair = Pair::new(device);
        let error = peft::load(&mut pair, dir.path()).unwrap_err();
        assert!(pair.first.adapter.is_none() && pair.second.adapter.is_none());
        error.to_string()
    };
    let name = &plain[0].0;
    for value in [f32::NAN, f32::INFINITY] {
        let reason = reason_of(&|factors| factors[0].2[3] = value);
        assert!(reason.contains(&format!("`{name}`")), "{reason}");
        assert!(reason.contains(&format!("holds {value}")), "{reason}");
    }
    let empty = reason_of(&|factors| {
        factors[0].1 = vec![0];
        factors[0].2.clear();
    });
    assert!(
        empty.contains("shape [0]") && empty.contains("ZeRO-3"),
        "{empty}"
    );
    let beside =
        |name: &str| reason_of(&|factors| factors.push((name.to_owned(), vec![1, 1], vec![1.0])));
    let first = "base_model.model.block.first";
    let dora = beside(&format!("{first}.lora_magnitude_vector"));
    assert!(dora.contains("use_dora"), "{dora}");
    let norm = beside("base_model.model.norm.weight");
    assert!(norm.contains("`base_model.model.norm.weight`"), "{norm}");
    let bias = beside(&format!("{first}.bias"));
    assert!(bias.contains("trained biases"), "{bias}");
    let missing = reason_of(&|factors| drop(factors.remove(1)));
    assert!(
        missing.contains("no lora_B for the layer `block.first`"),
        "{missing}"
    );
}

pub fn adapters_that_diverged_are_not_saved(device: &Device) {
    let (mut pair, dir) = saved(device);
    let before = fs::read(dir.path().join(peft::WEIGHTS_FILE)).unwrap();
    let branch = pair.second.adapter.as_mut().unwrap();
    branch.lora.b = branch
        .lora
        .b
        .clone()
        .map(|b| (b * f32::NAN).detach().require_grad());
    let error = peft::save(&pair, &config(), "base", dir.path()).unwrap_err();
    assert!(matches!(error, LoraError::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("block.second.lora_B"), "{error}");
    assert_eq!(
        fs::read(dir.path().join(peft::WEIGHTS_FILE)).unwrap(),
        before
    );
}

pub fn a_path_without_an_adapter_says_what_is_there(device: &Device) {
    let (pair, dir) = saved(device);
    // The files themselves stand for their folder.
    for name in [peft::CONFIG_FILE, peft::WEIGHTS_FILE] {
        let mut loaded = Pair::new(device);
        peft::load(&mut loaded, dir.path().join(name)).unwrap();
        assert_eq!(bits(&loaded), bits(&pair));
    }
    let other = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(other.path().join(name), bytes).unwrap();
    let reason_of = |path: &Path| {
        let error = peft::load(&mut Pair::new(device), path).unwrap_err();
        assert!(matches!(error, LoraError::NoAdapter { .. }), "{error}");
        error.to_string()
    };
    assert!(reason_of(other.path()).contains("there is no adapter_config.json"));
    put("lora.gguf", b"GGUF");
    assert!(reason_of(&other.path().join("lora.gguf")).contains("give the folder"));
    put("config.json", b"{}");
    assert!(reason_of(other.path()).contains("it is a model"));
    let step = other.path().join("checkpoints/step-00000002");
    fs::create_dir_all(&step).unwrap();
    fs::copy(
        dir.path().join(peft::CONFIG_FILE),
        step.join(peft::CONFIG_FILE),
    )
    .unwrap();
    let checkpoint = reason_of(other.path());
    assert!(
        checkpoint.contains("checkpoints/step-00000002"),
        "{checkpoint}"
    );
    put("adapter_model.bin", b"");
    fs::copy(
        dir.path().join(peft::CONFIG_FILE),
        other.path().join(peft::CONFIG_FILE),
    )
    .unwrap();
    for path in [
        other.path().to_owned(),
        other.path().join("adapter_model.bin"),
    ] {
        let pickled = reason_of(&path);
        assert!(pickled.contains("adapter_model.bin") && pickled.contains("save_pretrained"));
    }
}

pub fn doubtful_keys_are_told(device: &Device) {
    let (pair, dir) = saved(device);
    change_config(dir.path(), "a_number_of_the_future", json!(0.5));
    let adapter = peft::Adapter::open(dir.path()).unwrap();
    let [warning] = adapter.warnings() else {
        panic!("{:?}", adapter.warnings());
    };
    assert!(warning.contains("`a_number_of_the_future`"), "{warning}");
    let mut loaded = Pair::new(device);
    adapter.attach(&mut loaded).unwrap();
    assert_eq!(bits(&loaded), bits(&pair));
}

pub fn broken_files_are_refused(device: &Device) {
    let (_, dir) = saved(device);
    let mut pair = Pair::new(device);
    let weights = dir.path().join(peft::WEIGHTS_FILE);
    let bytes = fs::read(&weights).unwrap();
    for length in [0, 7, 100, bytes.len() - 1] {
        fs::write(&weights, &bytes[..length]).unwrap();
        let error = peft::load(&mut pair, dir.path()).unwrap_err();
        let LoraError::File(error) = error else {
            panic!("{error}");
        };
        assert!(
            matches!(error, TensorFileError::Malformed { .. }),
            "{error}"
        );
    }
    fs::remove_file(&weights).unwrap();
    let error = peft::load(&mut pair, dir.path()).unwrap_err();
    let LoraError::File(error) = error else {
        panic!("{error}");
    };
    assert!(matches!(error, TensorFileError::Read { .. }), "{error}");
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
    let LoraError::File(error) = error else {
        panic!("{error}");
    };
    assert!(matches!(error, TensorFileError::Write { .. }), "{error}");
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
