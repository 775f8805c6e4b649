//! GGUF files written from the recorded models: what comes back, and what llama.cpp's converter wrote of the same models.

use std::path::{Path, PathBuf};

use burn_qlora_llama::{
    Checkpoint, DecoderConfig, DecoderError, Family, GgufExport, GgufOptions, GgufType,
    LayerConfig, MergeBase, MergedCheckpoint, write_gguf_adapter,
};
use qlora_test_support::{Recording, fixture};
use tempfile::TempDir;
use tokenizers::Tokenizer;

use crate::gguf_families::FILES;
use crate::gguf_file::{GgufBuilder, tiny_llama};

fn options(weights: GgufType) -> GgufOptions {
    GgufOptions {
        weights,
        chat_template: None,
        lossy: false,
    }
}

/// Writes a checkpoint without an adapter; returns where, and what it warned of.
fn export(
    checkpoint: &Checkpoint,
    folder: &TempDir,
    options: &GgufOptions,
) -> Result<(PathBuf, Vec<String>), DecoderError> {
    let path = folder.path().join("written.gguf");
    let merged = MergedCheckpoint::new(checkpoint, None, MergeBase::Original)?;
    let export = GgufExport::begin(&merged, &path, options)?;
    let warnings = export.warnings().to_vec();
    let mut calls = Vec::new();
    export.write(|done, total| calls.push((done, total)))?;
    assert_eq!(calls.last().map(|(done, total)| done == total), Some(true));
    Ok((path, warnings))
}

fn folder_of(family: &str) -> Checkpoint {
    Checkpoint::open(fixture(format!("families/{family}"))).expect("the recorded folder opens")
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The type of the recorded file of a family.
fn recorded_type(file: &str) -> GgufType {
    if file.contains("bf16") {
        GgufType::Bf16
    } else {
        GgufType::F32
    }
}

/// Writes what was recorded of a family as the recorded file has it.
fn written_of(family: &str, file: &str, folder: &TempDir) -> (PathBuf, Vec<String>) {
    let options = GgufOptions {
        // Gemma 3's factor of the scores, which llama.cpp takes from the width of a head.
        lossy: family == "gemma3",
        ..options(recorded_type(file))
    };
    export(&folder_of(family), folder, &options).expect("is written")
}

/// Keys that llama.cpp's converter does not write, or writes otherwise, with the reason.
const OTHERWISE: [(&str, &str); 8] = [
    (
        "general.name",
        "it makes one of the folder's name by rules of its own",
    ),
    ("general.size_label", "a note for people"),
    (
        ".vocab_size",
        "some families' files leave it to the number of tokens, which is the same",
    ),
    (
        ".attention.key_length",
        "left out where it is the width over the heads, which is meant then",
    ),
    (".attention.value_length", "as the key's"),
    (
        ".rope.dimension_count",
        "left out where whole heads rotate, which is meant then",
    ),
    (
        ".rope.scaling.original_context_length",
        "of Phi-3 without scaling, where nothing asks for it",
    ),
    (
        "tokenizer.ggml.eot_token_id",
        "generation_config.json names further ends, which it does not read",
    ),
];

#[test]
fn files_have_the_metadata_and_tensors_that_llama_cpps_converter_writes() {
    for (family, file) in FILES {
        let folder = temporary();
        let (path, _) = written_of(family, file, &folder);
        let ours = GgufBuilder::of(&path);
        let theirs = GgufBuilder::of(&fixture(format!("families/{family}/gguf/{file}")));
        let mut keys = [ours.keys(""), theirs.keys("")].concat();
        keys.sort();
        keys.dedup();
        for key in keys {
            if ours.value(&key) != theirs.value(&key) {
                let known = OTHERWISE.iter().any(|(end, _)| key.ends_with(end));
                let values = [ours.value(&key), theirs.value(&key)];
                assert!(known, "{family}: {key}: {values:?}");
                // What only one of the two says is never said in two ways.
                let both = values.iter().all(Option::is_some);
                assert!(
                    !both || key.starts_with("general."),
                    "{family}: {key}: {values:?}"
                );
            }
        }
        let sorted = |file: &GgufBuilder| {
            let mut names = file.tensor_names();
            names.sort();
            names
        };
        assert_eq!(sorted(&ours), sorted(&theirs), "{family}");
        for name in theirs.tensor_names() {
            assert_eq!(
                ours.extents(&name),
                theirs.extents(&name),
                "{family}: {name}"
            );
            let (kind, bytes) = ours.data(&name);
            let (expected, recorded) = theirs.data(&name);
            assert_eq!(kind, expected, "{family}: {name}");
            // What fills a place up may be longer.
            let both = bytes.len().min(recorded.len());
            assert!(bytes[..both] == recorded[..both], "{family}: {name}");
        }
    }
}

/// All tensors of a checkpoint as the model uses them.
fn assert_same_weights(a: &Checkpoint, b: &Checkpoint, family: &str) {
    let file = GgufBuilder::of(b.path());
    let recorded = Recording::open(&format!("families/{family}/model.safetensors"));
    let mut compared = 0;
    for name in recorded.names() {
        let shape = recorded.shape(&name);
        let [a, b] = [a, b].map(|checkpoint| checkpoint.read_f32(&name, &shape).expect("reads"));
        assert!(a == b, "{family}: {name}");
        compared += 1;
    }
    assert_eq!(compared, file.tensor_names().len(), "{family}");
}

fn ids(tokenizer: &Tokenizer) -> Vec<u32> {
    let text = "The quick brown fox</s> jumps   over 12345 dogs; été, 日本 🦙!\n\n<s>Then";
    let encoding = tokenizer.encode(text, true).expect("encodes");
    encoding.get_ids().to_vec()
}

#[test]
fn a_written_file_comes_back_as_what_it_was() {
    for (family, file) in FILES {
        let folder = temporary();
        let (path, warnings) = written_of(family, file, &folder);
        let source = folder_of(family);
        let back = Checkpoint::open(&path).expect("opens");
        let mut expected: DecoderConfig = source.config().clone();
        match family {
            "mistral" => {
                expected.family = Family::Llama;
                expected.layers = vec![LayerConfig::default(); expected.layers.len()];
                assert!(warnings[0].contains("sliding_window 8"), "{warnings:?}");
            }
            "gemma3" => {
                expected.attention_scale = Some((expected.head_dim as f64).powf(-0.5));
                assert!(warnings[0].contains("attention_scale"), "{warnings:?}");
            }
            _ => assert_eq!(warnings, [""; 0], "{family}"),
        }
        assert_eq!(back.config(), &expected, "{family}");
        assert_same_weights(&source, &back, family);
        let [was, is] = [&source, &back].map(|checkpoint| {
            let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
            let special = checkpoint.special_tokens().expect("special tokens");
            (ids(&tokenizer), special)
        });
        assert_eq!(was, is, "{family}");
    }
}

#[test]
fn a_file_written_from_a_file_keeps_its_metadata_and_weights() {
    let source = fixture("families/qwen3/gguf/qwen3-bf16.gguf");
    let folder = temporary();
    let checkpoint = Checkpoint::open(&source).expect("opens");
    let (path, warnings) =
        export(&checkpoint, &folder, &options(GgufType::Bf16)).expect("is written");
    assert_eq!(warnings, [""; 0]);
    let [was, is] = [&source, &path].map(|path| GgufBuilder::of(path));
    for key in was.keys("") {
        assert_eq!(was.value(&key), is.value(&key), "{key}");
    }
    for name in was.tensor_names() {
        assert_eq!(was.data(&name).0, is.data(&name).0, "{name}");
    }
    assert_same_weights(
        &checkpoint,
        &Checkpoint::open(&path).expect("opens"),
        "qwen3",
    );
}

/// Where the type asked for is the one that a tensor has; the rest is encoded anew.
#[test]
fn blocks_of_a_file_go_out_byte_for_byte() {
    let folder = temporary();
    let source = folder.path().join("source.gguf");
    tiny_llama("tiny_llama", true).in_blocks().write(&source);
    let checkpoint = Checkpoint::open(&source).expect("opens");
    let was = GgufBuilder::of(&source);
    for (kind, number) in [
        (GgufType::Q4_0, 2),
        (GgufType::Q4_1, 3),
        (GgufType::Q5_0, 6),
        (GgufType::Q5_1, 7),
        (GgufType::Q8_0, 8),
    ] {
        let (path, _) = export(&checkpoint, &folder, &options(kind)).expect("is written");
        let is = GgufBuilder::of(&path);
        let (mut copied, mut others) = (0, 0);
        for name in was.tensor_names() {
            let ((held, bytes), (given, written)) = (was.data(&name), is.data(&name));
            if held == given {
                assert!(bytes == written, "{kind:?}: {name}");
                copied += usize::from(held == number);
            } else {
                others += 1;
            }
        }
        assert!(copied > 0 && others > 0, "{kind:?}: {copied}, {others}");
        std::fs::remove_file(&path).expect("removed");
    }
}

/// An adapter's layers are merged and encoded, all others copied.
#[test]
fn blocks_that_an_adapter_leaves_alone_go_out_byte_for_byte() {
    let folder = temporary();
    let file = |kind| {
        let folder = temporary();
        let (path, _) = export(&folder_of("smollm3"), &folder, &options(kind)).expect("written");
        std::fs::read(path).expect("reads")
    };
    let source = folder.path().join("source.gguf");
    std::fs::write(&source, file(GgufType::Q4_0)).expect("writes");
    let checkpoint = Checkpoint::open(&source).expect("opens");
    let adapter = checkpoint.open_adapter(fixture("families/smollm3/adapter"));
    let adapter = adapter.expect("opens");
    let merged =
        MergedCheckpoint::new(&checkpoint, Some(&adapter), MergeBase::Original).expect("fits");
    let path = folder.path().join("merged.gguf");
    let begun = GgufExport::begin(&merged, &path, &options(GgufType::Q4_0)).expect("begins");
    let report = begun.write(|_, _| {}).expect("is written");
    assert!(!report.changes.is_empty());
    let [was, is] = [&source, &path].map(|path| GgufBuilder::of(path));
    for name in was.tensor_names() {
        let is_merged = is.data(&name) != was.data(&name);
        let is_a_projection = name.starts_with("blk.") && !name.contains("norm");
        assert_eq!(is_merged, is_a_projection, "{name}");
    }
}

#[test]
fn a_model_that_llama_cpp_would_compute_otherwise_is_refused() {
    for (family, key) in [("gemma3", "attention_scale"), ("gemma2", "attention_scale")] {
        let folder = temporary();
        let error = export(&folder_of(family), &folder, &options(GgufType::F32)).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, DecoderError::NotInGguf { .. }),
            "{family}: {text}"
        );
        assert!(
            text.contains(key) && !text.contains('\n'),
            "{family}: {text}"
        );
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .expect("is there")
            .collect();
        assert!(left.is_empty(), "{family}: {left:?}");
    }
}

#[test]
fn scaled_rotations_go_out_as_factors_and_keys() {
    for (family, warned) in [
        ("llama_yarn", false),
        ("llama_dynamic", true),
        ("ministral3", false),
        ("phi3_longrope", false),
    ] {
        let folder = temporary();
        let (path, warnings) =
            export(&folder_of(family), &folder, &options(GgufType::F32)).expect(family);
        assert_eq!(!warnings.is_empty(), warned, "{family}: {warnings:?}");
        Checkpoint::open(&path).expect("opens");
    }
}

#[test]
fn llama_31_scaling_goes_out_as_the_factors_of_llama_cpp() {
    let folder = temporary();
    let source = temporary();
    for entry in std::fs::read_dir(fixture("families/llama_yarn")).expect("is there") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), source.path().join(entry.file_name())).expect("copies");
        }
    }
    let place = source.path().join("config.json");
    let text = std::fs::read_to_string(&place).expect("reads");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["rope_parameters"] = serde_json::json!({
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    });
    std::fs::write(&place, config.to_string()).expect("writes");
    let checkpoint = Checkpoint::open(source.path()).expect("opens");
    let (path, warnings) =
        export(&checkpoint, &folder, &options(GgufType::F32)).expect("is written");
    assert_eq!(warnings, [""; 0]);
    let file = GgufBuilder::of(&path);
    let (_, bytes) = file.data("rope_freqs.weight");
    let factors: Vec<f32> = bytes[..48]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four")))
        .collect();
    // llama.cpp's converter (conversion/llama.py, `generate_extra_tensors`) in f64: theta 500000, heads of 24 values.
    let expected: Vec<f64> = (0..12)
        .map(|pair| {
            let frequency = 500_000f64.powf(-2.0 * f64::from(pair) / 24.0);
            let wavelength = std::f64::consts::TAU / frequency;
            let smooth = (8192.0 / wavelength - 1.0) / 3.0;
            match wavelength {
                short if short < 2048.0 => 1.0,
                long if long > 8192.0 => 8.0,
                _ => 1.0 / ((1.0 - smooth) / 8.0 + smooth),
            }
        })
        .collect();
    for (found, expected) in factors.iter().zip(expected) {
        // A ratio of two numbers in f32.
        assert!(
            (f64::from(*found) - expected).abs() < 1e-6 * expected,
            "{found} {expected}"
        );
    }
}

#[test]
fn every_type_is_written_and_read_as_near_as_it_can_be() {
    for kind in GgufType::ALL {
        let folder = temporary();
        let source = folder_of("qwen3");
        let (path, _) = export(&source, &folder, &options(*kind)).expect("is written");
        let back = Checkpoint::open(&path).expect("opens");
        let name = "model.layers.0.self_attn.q_proj.weight";
        let [was, is] =
            [&source, &back].map(|file| file.read_f32(name, &[128, 64]).expect("reads"));
        let norm = |values: &mut dyn Iterator<Item = f32>| {
            values
                .map(|value| f64::from(value).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let error =
            norm(&mut was.iter().zip(&is).map(|(a, b)| a - b)) / norm(&mut was.iter().copied());
        // Rows of 64 have no blocks of 256. Of normal values 4 bits leave about 8 % and each bit more half of that.
        let bound = match kind {
            GgufType::F32 | GgufType::F16 | GgufType::Bf16 => 0.0,
            GgufType::Q8_0 | GgufType::Q6K => 0.008,
            GgufType::Q5_0 | GgufType::Q5_1 | GgufType::Q4K | GgufType::Q5K => 0.06,
            _ => 0.12,
        };
        assert!(error <= bound, "{kind:?}: {error}");
        if bound > 0.0 {
            assert!(error > bound / 8.0, "{kind:?}: {error}");
        }
    }
}

#[test]
fn a_place_that_is_taken_is_refused() {
    let folder = temporary();
    std::fs::write(folder.path().join("written.gguf"), "kept").expect("writes");
    let error = export(&folder_of("qwen2"), &folder, &options(GgufType::F32)).unwrap_err();
    assert!(
        matches!(error, DecoderError::OutputExists { .. }),
        "{error}"
    );
    let kept = std::fs::read_to_string(folder.path().join("written.gguf"));
    assert_eq!(kept.expect("reads"), "kept");
}

/// A folder with a recorded model and another tokenizer.json.
fn with_tokenizer(change: impl FnOnce(&mut serde_json::Value)) -> TempDir {
    let folder = temporary();
    let source = fixture("families/qwen2");
    for name in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        std::fs::copy(source.join(name), folder.path().join(name)).expect("copies");
    }
    let text = std::fs::read_to_string(source.join("tokenizer.json")).expect("reads");
    let mut tokenizer = serde_json::from_str(&text).expect("JSON");
    change(&mut tokenizer);
    write_json(folder.path(), "tokenizer.json", &tokenizer);
    folder
}

fn write_json(folder: &Path, name: &str, value: &serde_json::Value) {
    std::fs::write(folder.join(name), value.to_string()).expect("writes");
}

#[test]
fn a_tokenizer_that_llama_cpp_does_not_have_is_refused_by_name() {
    for (what, change) in [
        (
            "Whitespace",
            Box::new(|json: &mut serde_json::Value| {
                json["pre_tokenizer"] = serde_json::json!({"type": "Whitespace"});
            }) as Box<dyn FnOnce(&mut serde_json::Value)>,
        ),
        (
            "Lowercase",
            Box::new(|json| json["normalizer"] = serde_json::json!({"type": "Lowercase"})),
        ),
        (
            "klingon",
            Box::new(|json| {
                json["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "klingon"}, "behavior": "Isolated", "invert": false},
                    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
                ]});
            }),
        ),
    ] {
        let folder = with_tokenizer(change);
        let checkpoint = Checkpoint::open(folder.path()).expect("opens");
        let error = export(&checkpoint, &temporary(), &options(GgufType::F32)).unwrap_err();
        assert!(matches!(error, DecoderError::Tokenizer { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

/// Writes the adapter of a recorded folder for its model, and returns where.
fn export_adapter(family: &str, adapter: &Path, folder: &TempDir) -> (Checkpoint, PathBuf) {
    let checkpoint = folder_of(family);
    let path = folder.path().join("adapter.gguf");
    let adapter = checkpoint.open_adapter(adapter).expect("opens");
    let merged =
        MergedCheckpoint::new(&checkpoint, Some(&adapter), MergeBase::Original).expect("fits");
    write_gguf_adapter(&merged, &path, |_, _| {}).expect("is written");
    (checkpoint, path)
}

#[test]
fn an_adapter_comes_back_with_the_bits_it_had() {
    use burn_qlora::LoraModel;
    use burn_qlora_llama::{Decoder, LoadOptions};
    let device = burn::tensor::Device::default();
    for family in ["smollm3", "granite", "phi3", "qwen3", "gemma3"] {
        let folder = temporary();
        let source = fixture(format!("families/{family}/adapter"));
        let (checkpoint, path) = export_adapter(family, &source, &folder);
        let factors = |adapter: &Path| {
            let mut model =
                Decoder::load(&checkpoint, &LoadOptions::default(), &device).expect("loads");
            let adapter = checkpoint.open_adapter(adapter).expect("opens");
            adapter.attach(&mut model).expect("fits");
            let mut factors = Vec::new();
            for (path, linear) in model.lora_linears() {
                let branch = linear.adapter.as_ref().expect("has one");
                let [a, b] = [&branch.lora.a, &branch.lora.b]
                    .map(|factor| factor.val().into_data().try_into_vec::<f32>().expect("f32"));
                factors.push((path, a, b));
            }
            factors
        };
        assert!(factors(&source) == factors(&path), "{family}");
    }
}

#[test]
fn an_adapter_has_the_names_and_the_order_of_rows_that_its_model_has() {
    let folder = temporary();
    let source = fixture("families/smollm3/adapter");
    let (_, path) = export_adapter("smollm3", &source, &folder);
    let file = GgufBuilder::of(&path);
    let text = |key: &str| file.value(key).map(|(_, bytes)| bytes[8..].to_vec());
    assert_eq!(text("general.type"), Some(b"adapter".to_vec()));
    assert_eq!(text("adapter.type"), Some(b"lora".to_vec()));
    assert_eq!(text("general.architecture"), Some(b"smollm3".to_vec()));
    let alpha = file
        .value("adapter.lora.alpha")
        .map(|(_, bytes)| bytes.to_vec());
    assert_eq!(alpha, Some(8f32.to_le_bytes().to_vec()));
    // ggml's extents: the fastest first.
    assert_eq!(file.extents("blk.0.attn_k.weight.lora_a"), [64, 4]);
    assert_eq!(file.extents("blk.0.attn_k.weight.lora_b"), [4, 32]);
    let recorded = Recording::open("families/smollm3/adapter/adapter_model.safetensors");
    let b = recorded.f32("base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight");
    let (_, bytes) = file.data("blk.0.attn_k.weight.lora_b");
    let written: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four")))
        .collect();
    // Of heads of 16 rows: row 2i is row i, row 2i+1 is row i + 8.
    for row in 0..32 {
        let (head, within) = (row / 16, row % 16);
        let from = head * 16 + within % 2 * 8 + within / 2;
        assert_eq!(written[row * 4..][..4], b[from * 4..][..4], "{row}");
    }
}

#[test]
fn ranks_alphas_and_their_scaling_are_folded_in() {
    let checkpoint = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    for name in ["peft_adapter_rslora", "adapters/patterns"] {
        let source = fixture(name);
        let folder = temporary();
        let path = folder.path().join("adapter.gguf");
        let products = |adapter: &Path| {
            let adapter = checkpoint.open_adapter(adapter).expect("opens");
            let merged = MergedCheckpoint::new(&checkpoint, Some(&adapter), MergeBase::Original)
                .expect("fits");
            if !path.exists() {
                write_gguf_adapter(&merged, &path, |_, _| {}).expect("is written");
            }
            let fitted = merged.adapter().expect("there is one");
            let paths = checkpoint.config().projection_paths();
            let scaled = paths.iter().filter_map(|path| {
                let factors = fitted.factors(path).expect("reads")?;
                let scale = factors.config.scale() as f32;
                let b: Vec<f32> = factors.b.iter().map(|value| value * scale).collect();
                Some((path.clone(), factors.a, b))
            });
            scaled.collect::<Vec<_>>()
        };
        let (was, is) = (products(&source), products(&path));
        assert!(!was.is_empty() && was.len() == is.len(), "{name}");
        for (was, is) in was.iter().zip(&is) {
            assert!(was.0 == is.0 && was.1 == is.1, "{name}: {}", was.0);
            // A product of two factors in f32 in place of one.
            let mut pairs = was.2.iter().zip(&is.2);
            assert!(
                pairs.all(|(a, b)| (a - b).abs() <= 3e-7 * a.abs()),
                "{name}: {}",
                was.0
            );
        }
    }
}

#[test]
fn adapters_of_other_models_and_of_other_kinds_are_refused() {
    let folder = temporary();
    let source = fixture("families/smollm3/adapter");
    let (checkpoint, path) = export_adapter("smollm3", &source, &folder);
    let refusal = |checkpoint: &Checkpoint, change: &dyn Fn(&mut GgufBuilder)| {
        let mut file = GgufBuilder::of(&path);
        change(&mut file);
        let place = folder.path().join("changed.gguf");
        file.write(&place);
        let adapter = match checkpoint.open_adapter(&place) {
            Err(error) => return error.to_string(),
            Ok(adapter) => adapter,
        };
        let fitted = MergedCheckpoint::new(checkpoint, Some(&adapter), MergeBase::Original);
        fitted.expect_err("it does not fit").to_string()
    };
    let unchanged = refusal(&folder_of("granite"), &|_| {});
    assert!(
        unchanged.contains("smollm3") && unchanged.contains("granite"),
        "{unchanged}"
    );
    type Change = Box<dyn Fn(&mut GgufBuilder)>;
    let cases: [(&str, Change); 5] = [
        (
            "general.type",
            Box::new(|file| file.text("general.type", "model")),
        ),
        (
            "adapter.type",
            Box::new(|file| file.text("adapter.type", "dora")),
        ),
        (
            "blk.9.attn_q.weight.lora_a",
            Box::new(|file| {
                file.tensor("blk.9.attn_q.weight.lora_a", &[4, 64], 0, vec![0; 1024]);
            }),
        ),
        (
            "token_embd.weight.lora_a",
            Box::new(|file| {
                file.tensor("token_embd.weight.lora_a", &[4, 64], 0, vec![0; 1024]);
            }),
        ),
        (
            "lora_B",
            Box::new(|file| *file = file.without_tensor("blk.0.attn_v.weight.lora_b")),
        ),
    ];
    for (needle, change) in cases {
        let error = refusal(&checkpoint, &change);
        assert!(
            error.contains(needle) && !error.contains('\n'),
            "{needle}: {error}"
        );
    }
    let model = checkpoint.open_adapter(fixture("families/smollm3/gguf/smollm3-f32.gguf"));
    assert!(model.unwrap_err().to_string().contains("general.type"));
}
