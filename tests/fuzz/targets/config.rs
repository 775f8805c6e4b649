//! config.json and generation_config.json beside whole weights.

use crate::target::{Folder, fuzz};
use burn_qlora_llama::Checkpoint;
use qlora_test_support::read_fixture;

#[test]
fn configurations() {
    let good: Vec<_> = [
        "tiny_llama/config.json",
        "tiny_llama/config_legacy.json",
        "tiny_llama_nf4/config.json",
    ]
    .map(read_fixture)
    .into();
    let folder = Folder::new();
    folder.write(
        "model.safetensors",
        &read_fixture("tiny_llama/model.safetensors"),
    );
    fuzz(&good, |bytes| {
        folder.write("config.json", bytes);
        let _ = Checkpoint::open(folder.path());
    });
}
