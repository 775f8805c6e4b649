//! Exported models hold the weights that peft's `merge_and_unload` makes, and compute what it then computes.

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_qlora::peft::Adapter;
use burn_qlora_llama::{
    Checkpoint, Decoder, FloatType, HfOptions, LoadOptions, MergeBase, MergedCheckpoint, write_hf,
};
use qlora_test_support::{FAMILIES, Recording, Tolerance, assert_close, fixture, values};
use qlora_tests::devices;
use tempfile::TempDir;

/// The model in the folder `base` with the adapter in the folder `adapter` merged into it, in f32.
fn exported(base: &str, adapter: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(fixture(base)).unwrap();
    let adapter = Adapter::open(fixture(adapter)).unwrap();
    let merged = MergedCheckpoint::new(&checkpoint, Some(&adapter), MergeBase::Original).unwrap();
    let options = HfOptions {
        dtype: FloatType::F32,
        shard_bytes: 1 << 30,
        chat_template: None,
    };
    write_hf(&merged, dir.path().join("model"), &options, |_, _| {}).unwrap();
    dir
}

fn logits(dir: &TempDir, ids: Tensor<2, Int>, device: &Device) -> Vec<f32> {
    let checkpoint = Checkpoint::open(dir.path().join("model")).unwrap();
    let model = Decoder::load(&checkpoint, &LoadOptions::default(), device).unwrap();
    values(model.forward(ids))
}

fn ids(recording: &Recording, name: &str, device: &Device) -> Tensor<2, Int> {
    let shape = recording.shape(name);
    let data = TensorData::new(recording.i64(name), [shape[0], shape[1]]);
    Tensor::from_data(data, device)
}

/// Patterns of ranks and alphas with rsLoRA; factors on embedding and head; q, k and v, and gate and up, in one matrix; norms that
/// multiply by `1 + weight`.
#[test]
fn the_weights_are_those_of_peft() {
    for (base, adapter, count) in [
        ("tiny_llama", "adapters/patterns", 9),
        ("tiny_llama", "adapters/factored_head", 5),
        ("families/phi3", "families/phi3/adapter", 16),
        ("families/gemma2", "families/gemma2/adapter", 28),
    ] {
        let dir = exported(base, adapter);
        let path = dir.path().join("model/model.safetensors");
        let written = Recording::open(path.to_str().unwrap());
        let recording = Recording::open(&format!("{adapter}/merged.safetensors"));
        assert_eq!(recording.names().len(), count, "{adapter}");
        for name in recording.names() {
            let expected = recording.f32(&name);
            let found = &written.f32(&name)[..expected.len()];
            // The product of up to 8 terms below 2 is summed in another order, and scaled by up to 9.
            let tolerance = Tolerance::absolute(1e-6, "sums of a few f32 numbers in another order");
            assert_close(&format!("{adapter}: {name}"), found, &expected, tolerance);
        }
    }
}

#[test]
fn every_family_computes_what_peft_computes_after_merging() {
    let device = devices().remove(0).device;
    for family in FAMILIES {
        let folder = format!("families/{family}");
        let recording = Recording::open(&format!("{folder}/adapter/reference.safetensors"));
        let dir = exported(&folder, &format!("{folder}/adapter"));
        let found = logits(&dir, ids(&recording, "long_input_ids", &device), &device);
        let expected = recording.f32("merged_f32_long_logits_tail");
        let tail = &found[found.len() - expected.len()..];
        let tolerance = Tolerance::absolute(1e-4, "an f64 recomputation is within 8.6e-6");
        assert_close(family, tail, &expected, tolerance);
    }
}

/// Embeddings and heads of the adapter's own, on a model that shares them and on one that does not.
#[test]
fn what_an_adapter_brings_whole_goes_into_the_model() {
    let device = devices().remove(0).device;
    for (adapter, base) in [
        ("tied_embedding", "tiny_llama_tied"),
        ("tied_head", "tiny_llama_tied"),
        ("factored_head", "tiny_llama"),
        ("blocks", "tiny_llama"),
        ("regex", "tiny_llama"),
    ] {
        let folder = format!("adapters/{adapter}");
        let recording = Recording::open(&format!("{folder}/reference.safetensors"));
        let dir = exported(base, &folder);
        let found = logits(&dir, ids(&recording, "input_ids", &device), &device);
        let reason =
            "the logits move by 4 to 10 under these adapters; f32 in another order costs 5e-6";
        assert_close(
            adapter,
            &found,
            &recording.f32("logits"),
            Tolerance::absolute(1e-4, reason),
        );
    }
}
