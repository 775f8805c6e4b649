//! Directories in 16 and 32 bits, written from every kind of checkpoint.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use burn_qlora::QuantConfig;
use burn_qlora_llama::{
    Checkpoint, DecoderError, FloatType, HfOptions, MergeBase, MergedCheckpoint, write_hf,
};
use qlora_test_support::{FAMILIES, fixture};
use serde_json::Value;
use tensor_files::TensorFile;

use crate::fixtures::files;

const F32: HfOptions = HfOptions {
    dtype: FloatType::F32,
    shard_bytes: 1 << 30,
    chat_template: None,
};

fn write(source: &Checkpoint, output: &Path, options: &HfOptions) -> Result<(), DecoderError> {
    let model = MergedCheckpoint::new(source, None, MergeBase::Original)?;
    write_hf(&model, output, options, |_, _| {}).map(drop)
}

/// Names and shapes of all tensors of a folder.
fn tensors(folder: &Path) -> Vec<(String, Vec<usize>)> {
    let file = TensorFile::open(&folder.join("model.safetensors")).expect("opens");
    let shape = |name: &str| file.tensor(name).expect("is there").shape().to_vec();
    file.names()
        .map(|name| (name.to_owned(), shape(name)))
        .collect()
}

/// What is written reads as `source` does, bit for bit, and says nothing of a quantization.
fn written_is_the_same(source: PathBuf) {
    let what = source.display().to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = dir.path().join("written");
    let source = Checkpoint::open(source).expect("opens");
    write(&source, &output, &F32).expect("writes");
    let files = fs::read_dir(dir.path()).expect("lists").count();
    assert_eq!(files, 1, "{what}: nothing but the output is left");
    let text = fs::read_to_string(output.join("config.json")).expect("is there");
    let config: Value = serde_json::from_str(&text).expect("is JSON");
    assert!(config.get("quantization_config").is_none(), "{what}");
    assert_eq!(config["dtype"], "float32", "{what}");
    assert!(output.join("generation_config.json").is_file(), "{what}");

    let written = Checkpoint::open(&output).expect("what was written opens");
    assert_eq!(written.config(), source.config(), "{what}");
    assert!(
        written.warnings().is_empty(),
        "{what}: {:?}",
        written.warnings()
    );
    assert!(!written.is_bitsandbytes(), "{what}");
    for (name, shape) in tensors(&output) {
        let found = written.read_f32(&name, &shape).expect("reads");
        let expected = source.read_f32(&name, &shape).expect("reads");
        let same = found
            .iter()
            .zip(&expected)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same && found.len() == expected.len(), "{what}: {name}");
    }
}

#[test]
fn every_family_goes_out_as_it_came_in() {
    for family in FAMILIES {
        written_is_the_same(fixture(format!("families/{family}")));
        written_is_the_same(fixture(format!("families/{family}/nf4")));
    }
    written_is_the_same(fixture("tiny_llama_tied_nf4_nodq"));
}

#[cfg(feature = "gguf")]
#[test]
fn files_of_llama_cpp_become_directories() {
    for (family, file) in crate::gguf_families::FILES {
        written_is_the_same(fixture(format!("families/{family}/gguf/{file}")));
    }
}

#[test]
fn the_weights_can_be_those_of_training() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = dir.path().join("written");
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    let quant = QuantConfig::default();
    let model = MergedCheckpoint::new(&source, None, MergeBase::Quantized(quant)).expect("fits");
    write_hf(&model, &output, &F32, |_, _| {}).expect("writes");
    let (written, trained_on) = (
        Checkpoint::open(&output).expect("opens"),
        Checkpoint::open(fixture("tiny_llama_nf4")).expect("opens"),
    );
    for (name, shape) in tensors(&output) {
        let found = written.read_f32(&name, &shape).expect("reads");
        let expected = trained_on.read_f32(&name, &shape).expect("reads");
        // One of a few hundred 8-bit scales may round to its neighbour (fixtures README).
        let largest = expected
            .iter()
            .fold(0f32, |most, value| most.max(value.abs()));
        let error = found.iter().zip(&expected);
        let error = error.fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(error <= 1e-2 * largest, "{name}: {error} of {largest}");
    }
}

#[test]
fn sixteen_bits_are_the_nearest() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = Checkpoint::open(fixture("families/qwen2")).expect("opens");
    for (dtype, step) in [
        (FloatType::F16, 2f32.powi(-11)),
        (FloatType::Bf16, 2f32.powi(-8)),
    ] {
        let output = dir.path().join(format!("{dtype:?}"));
        write(&source, &output, &HfOptions { dtype, ..F32 }).expect("writes");
        let written = Checkpoint::open(&output).expect("opens");
        for (name, shape) in tensors(&output) {
            let found = written.read_f32(&name, &shape).expect("reads");
            let expected = source.read_f32(&name, &shape).expect("reads");
            for (found, expected) in found.iter().zip(&expected) {
                // Half of the last place, and the least number of f16.
                let most = step * expected.abs() + 2f32.powi(-25);
                assert!(
                    (found - expected).abs() <= most,
                    "{name}: {found}, {expected}"
                );
            }
        }
    }
}

/// Shards small enough that there are several.
const SHARDS: HfOptions = HfOptions {
    dtype: FloatType::Bf16,
    shard_bytes: 60_000,
    chat_template: None,
};

/// Writes until tensor `last` is done, where the writing dies; returns how many were done at each of its reports.
fn interrupted(source: &Checkpoint, output: &Path, options: &HfOptions, last: usize) -> Vec<usize> {
    let model = MergedCheckpoint::new(source, None, MergeBase::Original).expect("fits");
    let mut reports = Vec::new();
    let died = catch_unwind(AssertUnwindSafe(|| {
        write_hf(&model, output, options, |done, _| {
            reports.push(done);
            assert!(done < last, "this is where it dies");
        })
    }));
    assert_eq!(died.is_err(), last < usize::MAX);
    assert_eq!(output.exists(), last == usize::MAX, "whole or not at all");
    reports
}

#[test]
fn an_interrupted_export_goes_on_from_its_complete_shards() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    let whole = dir.path().join("whole");
    write(&source, &whole, &SHARDS).expect("writes");
    let expected = files(&whole);
    let shards = expected
        .iter()
        .filter(|(name, _)| name.starts_with("model-0"));
    assert!(shards.count() > 5);
    assert!(
        expected
            .iter()
            .any(|(name, _)| name == "model.safetensors.index.json")
    );

    let output = dir.path().join("resumed");
    // The embedding is the first shard; the second has tensors 2 to 8.
    assert!(interrupted(&source, &output, &SHARDS, 12).contains(&5));
    let kept = || {
        let entries = fs::read_dir(dir.path()).expect("lists");
        let hidden = entries.map(|entry| entry.expect("an entry").path());
        let mut hidden = hidden.filter(|path| path.to_string_lossy().contains("partial"));
        (hidden.next(), hidden.next())
    };
    let (Some(folder), None) = kept() else {
        panic!("one unfinished folder should be left");
    };
    assert!(fs::read_dir(&folder).expect("lists").count() > 2);
    // A complete shard is reported at once, whole.
    let reports = interrupted(&source, &output, &SHARDS, 20);
    assert!(reports.starts_with(&[1, 8, 9]), "{reports:?}");

    // One that was changed since is made again.
    let damaged = folder.join("model-00002-of-00008.safetensors");
    let mut changed = fs::read(&damaged).expect("is there");
    let end = changed.len() - 1;
    changed[end] ^= 1;
    fs::write(&damaged, changed).expect("writes");
    let reports = interrupted(&source, &output, &SHARDS, usize::MAX);
    assert!(
        reports.contains(&5) && !reports.contains(&10),
        "{reports:?}"
    );
    assert_eq!(files(&output), expected);
    assert_eq!(kept(), (None, None));
}

#[test]
fn what_another_export_left_is_not_taken_up() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    let output = dir.path().join("written");
    interrupted(&source, &output, &SHARDS, 12);
    let options = HfOptions {
        dtype: FloatType::F16,
        ..SHARDS
    };
    write(&source, &output, &options).expect("writes");
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    let text = fs::read_to_string(output.join("config.json")).expect("is there");
    assert!(text.contains("float16"), "{text}");
    let error = write(&source, &output, &options).expect_err("is there already");
    assert!(
        matches!(error, DecoderError::OutputExists { .. }),
        "{error}"
    );
}

#[test]
fn a_value_beyond_the_type_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    fs::create_dir(&source).expect("made");
    for entry in fs::read_dir(fixture("tiny_llama")).expect("lists") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            fs::copy(&path, source.join(path.file_name().expect("a name"))).expect("copies");
        }
    }
    // The last value of the last tensor in the file, in bf16: 2^127.
    let weights = source.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("reads");
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&0x7f00u16.to_le_bytes());
    fs::write(&weights, bytes).expect("writes");
    let checkpoint = Checkpoint::open(&source).expect("opens");
    let output = dir.path().join("written");
    // Behind shards that are complete, which nobody could go on from.
    let options = HfOptions {
        dtype: FloatType::F16,
        ..SHARDS
    };
    let error = write(&checkpoint, &output, &options).expect_err("too large");
    let error = error.to_string();
    assert!(
        error.contains("float16") && error.contains("model."),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    write(&checkpoint, &output, &F32).expect("writes");
}
