//! GGUF files.

use crate::target::{Folder, fuzz};
use burn_qlora_llama::Checkpoint;
use qlora_test_support::read_fixture;

#[test]
fn gguf_files() {
    let good = [
        "families/qwen3/gguf/qwen3-bf16.gguf",
        "families/olmo2/gguf/olmo2-bf16.gguf",
    ]
    .map(|name| {
        // The header; what tensors hold is any number.
        let mut bytes = read_fixture(name);
        bytes.truncate(96 << 10);
        bytes
    });
    let folder = Folder::new();
    fuzz(&good, |bytes| {
        let Ok(checkpoint) = Checkpoint::open(folder.write("model.gguf", bytes)) else {
            return;
        };
        let _ = checkpoint.tokenizer();
        let _ = checkpoint.chat_template();
        let _ = checkpoint.special_tokens();
        let _ = checkpoint.read_f32("model.norm.weight", &[64]);
    });
}
