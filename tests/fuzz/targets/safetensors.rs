//! Safetensors files.

use crate::target::{Folder, fuzz};
use qlora_test_support::read_fixture;
use tensor_files::TensorFile;

#[test]
fn safetensors_files() {
    let good = [
        "peft_adapter/adapter_model.safetensors",
        "matmul.safetensors",
    ]
    .map(|name| {
        let mut bytes = read_fixture(name);
        bytes.truncate(64 << 10);
        bytes
    });
    let folder = Folder::new();
    fuzz(&good, |bytes| {
        let Ok(file) = TensorFile::open(&folder.write("model.safetensors", bytes)) else {
            return;
        };
        for name in file.names() {
            if let Some(tensor) = file.tensor(name) {
                let _ = tensor.read();
            }
        }
    });
}
