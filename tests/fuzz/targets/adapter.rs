//! Adapter folders: the configuration, and the weights.

use crate::target::{Folder, fuzz};
use burn::tensor::Device;
use burn_qlora::peft;
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions};
use qlora_test_support::{fixture, read_fixture};
use std::cell::RefCell;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

fn fuzz_one_of_two(mistaken: &str, whole: &str) {
    let good = ["peft_adapter", "peft_adapter_rslora"]
        .map(|name| read_fixture(format!("{name}/{mistaken}")));
    let checkpoint = Checkpoint::open(fixture("tiny_llama")).expect("a whole checkpoint");
    let model = Decoder::load(&checkpoint, &LoadOptions::default(), &Device::flex());
    let model = RefCell::new(model.expect("a model"));
    let folder = Folder::new();
    folder.write(whole, &read_fixture(format!("peft_adapter/{whole}")));
    fuzz(&good, |bytes| {
        folder.write(mistaken, bytes);
        let _ = peft::load(&mut *model.borrow_mut(), folder.path());
    });
}

#[test]
fn adapter_configurations() {
    fuzz_one_of_two(CONFIG, WEIGHTS);
}

#[test]
fn adapter_weights() {
    fuzz_one_of_two(WEIGHTS, CONFIG);
}
