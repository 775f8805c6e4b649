//! tokenizer.json and what is said beside it.

use crate::target::{FIXED_BYTES, Folder, check_memory, fuzz};
use burn_qlora_llama::Checkpoint;
use qlora_test_support::{byte_tokenizer, read_fixture};
use std::thread;

#[test]
fn tokenizers() {
    let good = [
        byte_tokenizer().to_string().into_bytes(),
        read_fixture("chat_masks/tokenizer.json"),
    ];
    let folder = Folder::new();
    for name in ["config.json", "model.safetensors"] {
        folder.write(name, &read_fixture(format!("tiny_llama/{name}")));
    }
    let checkpoint = Checkpoint::open(folder.path()).expect("a whole checkpoint");
    fuzz(&good, |bytes| {
        folder.write("tokenizer.json", bytes);
        if let Ok(tokenizer) = checkpoint.tokenizer() {
            let encode = || drop(tokenizer.encode("A text, <s> and \u{301}öß.", true));
            // A thread keeps a cache for every tokenizer that it ever encoded with (tokenizers 0.23, `BPE_LOCAL_CACHE`).
            thread::scope(|threads| {
                let held = threads.spawn(|| check_memory(FIXED_BYTES, bytes.len(), encode));
                held.join().expect("as much memory as the input explains");
            });
        }
        let _ = checkpoint.special_tokens();
    });
}
