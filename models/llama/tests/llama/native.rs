//! Checkpoints to read weights from while they are used: what they hold, how it lies, and what is said of damaged ones.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use burn::tensor::{Device, Int, Tensor};
use burn_paged::{Budget, WeightPages};
use burn_qlora::QuantConfig;
use burn_qlora_llama::{
    Checkpoint, Decoder, DecoderError, LoadOptions, NativeOptions, Weights, write_native,
};
use qlora_test_support::{FAMILIES, fixture, values};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::fixtures::files;

const INDEX: &str = "model.safetensors.index.json";

/// Several files of the smallest model.
const OPTIONS: NativeOptions = NativeOptions {
    format: QuantConfig {
        codebook: nf4::Codebook::Nf4,
        block_size: 64,
        double_quant: true,
    },
    shard_bytes: 30_000,
};

fn write(source: &Checkpoint, output: &Path) -> Result<(), DecoderError> {
    write_native(source, output, &OPTIONS, |_, _| {})
}

/// The files of weights, in their order.
fn shards(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("lists");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut shards: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .collect();
    shards.sort();
    shards
}

fn index(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join(INDEX)).expect("reads");
    serde_json::from_str(&text).expect("is JSON")
}

/// Every matrix in 4 bits has the bits that quantizing `source` gives, every other tensor those of `source`; the safetensors
/// crate takes the files; a weight's tensors begin with a page and lie together.
fn written_is_the_same(source: PathBuf) {
    let what = source.display().to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = dir.path().join("written");
    let source = Checkpoint::open(source).expect("opens");
    write(&source, &output).unwrap_or_else(|error| panic!("{what}: {error}"));
    let files = fs::read_dir(dir.path()).expect("lists").count();
    assert_eq!(files, 1, "{what}: nothing but the output is left");
    let written = Checkpoint::open(&output).expect("what was written opens");
    assert_eq!(written.config(), source.config(), "{what}");
    assert!(written.warnings().is_empty(), "{:?}", written.warnings());

    let mut packed = 0;
    for path in shards(&output) {
        let bytes = fs::read(&path).expect("reads");
        let (header, metadata) = SafeTensors::read_metadata(&bytes).expect("is valid");
        let data = 8 + header;
        SafeTensors::deserialize(&bytes).expect("is valid");
        let mut infos: Vec<_> = metadata.tensors().into_iter().collect();
        infos.sort_by_key(|(_, info)| info.data_offsets);
        let weight_of = |name: &str| {
            let (weight, _) = name.split_once(".weight").unwrap_or((name, ""));
            weight.to_owned()
        };
        let mut before = String::new();
        let mut seen = Vec::new();
        for (name, info) in &infos {
            let weight = weight_of(name);
            let is_packed = metadata
                .info(&format!("{weight}.weight.quant_map"))
                .is_some();
            if weight != before {
                assert!(!seen.contains(&weight), "{what}: {name} lies apart");
                let begin = data + info.data_offsets.0;
                assert!(!is_packed || begin % 4096 == 0, "{what}: {name} at {begin}");
                packed += usize::from(is_packed);
                seen.push(weight.clone());
                before = weight;
            }
            let align = info.dtype.bitsize() / 8;
            assert_eq!((data + info.data_offsets.0) % align, 0, "{what}: {name}");
        }
    }
    assert!(packed >= 7, "{what}");

    let map = index(&output)["weight_map"].clone();
    let names = map.as_object().expect("an object").keys();
    let weights = names.filter(|name| name.ends_with(".weight") || name.ends_with(".bias"));
    for name in weights {
        let checkpoint = |path: &Path| Checkpoint::open(path).expect("opens");
        let file = &map[name].as_str().expect("a name");
        let bytes = fs::read(output.join(file)).expect("reads");
        let tensors = SafeTensors::deserialize(&bytes).expect("is valid");
        let Ok(state) = tensors.tensor(&format!("{name}.quant_state.bitsandbytes__nf4")) else {
            let shape = tensors.tensor(name).expect("is there").shape().to_vec();
            let [found, expected] = [&written, &source].map(|checkpoint| {
                let values = checkpoint.read_f32(name, &shape).expect("reads");
                values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            assert!(found == expected, "{what}: {name}");
            continue;
        };
        let state: Value = serde_json::from_slice(state.data()).expect("is JSON");
        let shape = [0, 1].map(|axis| state["shape"][axis].as_u64().expect("a number") as usize);
        let found = checkpoint(&output).read_quantized(name, shape);
        let expected = source.quantize(name, shape, OPTIONS.format);
        assert_eq!(
            found.expect("reads").expect("is in 4 bits"),
            expected.expect("quantizes"),
            "{what}: {name}"
        );
    }
}

#[test]
fn every_kind_of_checkpoint_becomes_one() {
    for family in FAMILIES {
        written_is_the_same(fixture(format!("families/{family}")));
    }
    for model in [
        "families/qwen2/nf4",
        "tiny_llama_nf4",
        "tiny_llama_tied_nf4_nodq",
    ] {
        written_is_the_same(fixture(model));
    }
}

#[cfg(feature = "gguf")]
#[test]
fn files_of_llama_cpp_become_such() {
    let (family, file) = crate::gguf_families::FILES[0];
    written_is_the_same(fixture(format!("families/{family}/gguf/{file}")));
}

/// Writes until `last` tensors are done, where the writing dies as if the process were killed.
fn interrupted(source: &Checkpoint, output: &Path, last: usize) {
    let died = catch_unwind(AssertUnwindSafe(|| {
        write_native(source, output, &OPTIONS, |done, _| {
            assert!(done < last, "this is where it dies");
        })
    }));
    died.expect_err("it has died");
    assert!(!output.exists(), "whole or not at all");
}

#[test]
fn an_interrupted_conversion_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    let whole = dir.path().join("whole");
    write(&source, &whole).expect("writes");
    let expected = files(&whole);
    assert!(shards(&whole).len() > 3);

    let output = dir.path().join("resumed");
    interrupted(&source, &output, 12);
    let hidden = burn_qlora_llama::unfinished_export(&output).expect("is kept");
    Checkpoint::open(&hidden).expect_err("it is no model");
    let there = shards(&hidden);
    assert!(there.len() > 1, "{there:?}");
    // Of a complete file one byte is another one: it is written again, and the others are not.
    let content = fs::read(&there[1]).expect("reads");
    damage(&there[1], content.len() - 5000);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for path in &there[..2] {
        let file = File::options().write(true).open(path).expect("opens");
        file.set_modified(long_ago).expect("is set");
    }
    write(&source, &output).expect("goes on");
    let is_old = |index: usize| {
        let metadata = fs::metadata(&shards(&output)[index]).expect("is there");
        metadata.modified().expect("is known") == long_ago
    };
    assert!(is_old(0) && !is_old(1));
    assert!(files(&output) == expected);
    assert_eq!(burn_qlora_llama::unfinished_export(&output), None);
}

fn damage(path: &Path, place: usize) {
    let mut content = fs::read(path).expect("reads");
    content[place] ^= 0x10;
    fs::write(path, content).expect("writes");
}

/// A damaged byte, of whichever tensor it is, is found when its weight is read, and file and weight are named.
#[test]
fn damage_is_found_by_checksum() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = dir.path().join("written");
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    write(&source, &output).expect("writes");
    let options = LoadOptions::new(Weights::AsStored);
    let load = || {
        let checkpoint = Checkpoint::open(&output)?;
        Decoder::load(&checkpoint, &options, &Device::flex())
    };
    load().expect("is whole");
    for path in shards(&output) {
        let content = fs::read(&path).expect("reads");
        let (header, metadata) = SafeTensors::read_metadata(&content).expect("is valid");
        for (name, info) in metadata.tensors() {
            // A space behind JSON, a scale, a code, a number.
            damage(&path, 8 + header + info.data_offsets.1 - 1);
            let error = load().expect_err("is damaged").to_string();
            fs::write(&path, &content).expect("writes");
            let (weight, _) = name.split_once(".weight").unwrap_or((&name, ""));
            let file = path.file_name().expect("a name").to_string_lossy();
            for part in [&*file, weight] {
                assert!(error.contains(part), "{name}: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
    }
    // An index that is no more what it was.
    let whole = index(&output);
    for (sums, expected) in [
        (json!([]), "is no object"),
        (json!({"model.norm.weight": 7}), "model.norm.weight"),
        (json!({"model.norm.weight": "7"}), "model.norm.weight"),
        (
            json!({"model.norm.weight": "00000000000000zz"}),
            "no checksum",
        ),
        (
            json!({"model.norm.weight": "0123456789abcdef"}),
            "the bytes of `model.norm.weight`",
        ),
    ] {
        let mut other = whole.clone();
        other["metadata"]["xxh3_64"] = sums;
        fs::write(output.join(INDEX), other.to_string()).expect("writes");
        let error = load().expect_err("is damaged").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Weights that are read when they are used are not read before: what is damaged is found then.
#[test]
fn opening_reads_no_weight_that_does_not_stay() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = dir.path().join("written");
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    write(&source, &output).expect("writes");
    let device = Device::flex();
    let tokens = || Tensor::<2, Int>::from_data([[3, 1, 4, 1, 5]], &device);
    let checkpoint = Checkpoint::open(&output).expect("opens");
    let options = LoadOptions::new(Weights::AsStored);
    let logits = |budget| {
        let pages = WeightPages::on_disk(&dir.path().join("pages"), budget).expect("opens");
        let model = Decoder::load_paged(&checkpoint, &options, &device, pages.clone());
        let model = model.expect("loads");
        assert_eq!(pages.take_report().bytes_in, 0);
        let logits = values(model.forward(tokens()));
        (pages.check(), logits)
    };
    let resident = Decoder::load(&checkpoint, &options, &device).expect("loads");
    let expected = values(resident.forward(tokens()));
    for budget in [Budget::Bytes(0), Budget::Fraction(0.5)] {
        let (checked, found) = logits(budget);
        checked.expect("all could be read");
        assert!(found == expected, "{budget}");
    }
    let name = "model.layers.1.mlp.up_proj.weight";
    let file = index(&output)["weight_map"][name].clone();
    let path = output.join(file.as_str().expect("a name"));
    let content = fs::read(&path).expect("reads");
    let (header, metadata) = SafeTensors::read_metadata(&content).expect("is valid");
    let info = metadata.info(name).expect("is there");
    damage(&path, 8 + header + info.data_offsets.0);
    let error = logits(Budget::Bytes(0)).0.expect_err("is damaged");
    let error = error.to_string();
    for part in [name, path.to_str().expect("UTF-8"), "damaged"] {
        assert!(error.contains(part), "{error}");
    }
}
