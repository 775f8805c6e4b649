//! Burn's own files.

use crate::support::{Pair, input};
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::{DType, Device};
use burn_qlora::{BaseWeight, LoraConfig};
use burn_store::{ModuleSnapshot, SafetensorsStore};
use qlora_test_support::values;

fn blank(device: &Device, config: &LoraConfig) -> Pair {
    device.seed(99);
    let pair = Pair::adapted(device, config);
    pair.map(&mut Blank)
}

/// Sets everything to zero.
struct Blank;

impl burn::module::ModuleMapper for Blank {
    fn map_float<const D: usize>(
        &mut self,
        param: burn::module::Param<burn::Tensor<D>>,
    ) -> burn::module::Param<burn::Tensor<D>> {
        param.map(|tensor| tensor.zeros_like().detach())
    }

    fn map_int<const D: usize>(
        &mut self,
        param: burn::module::Param<burn::Tensor<D, burn::tensor::Int>>,
    ) -> burn::module::Param<burn::Tensor<D, burn::tensor::Int>> {
        param.map(|tensor| tensor.zeros_like())
    }
}

fn assert_same(got: &Pair, expected: &Pair, device: &Device) {
    let x = input(4, device);
    assert_eq!(values(got.forward(x.clone())), values(expected.forward(x)));
    let BaseWeight::Quantized(weight) = &got.first.weight else {
        panic!("the first layer should be quantized");
    };
    assert_eq!(weight.packed.val().dtype(), DType::U32);
    assert_eq!(weight.absmax.val().dtype(), DType::U32);
}

pub fn a_record_restores_the_same_words(device: &Device) {
    let config = LoraConfig::new(4, 8.0);
    let pair = Pair::adapted(device, &config);
    let bytes = pair.clone().into_record().into_bytes().unwrap();
    for cast in [false, true] {
        let mut record = ModuleRecord::from_bytes(bytes.clone()).unwrap();
        if cast {
            record = record.cast_to_module_dtype();
        }
        let loaded = blank(device, &config).try_load_record(record).unwrap();
        assert_same(&loaded, &pair, device);
    }
}

pub fn safetensors_keep_the_words(device: &Device) {
    let config = LoraConfig::new(4, 8.0);
    let pair = Pair::adapted(device, &config);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pair.safetensors");
    pair.save_into(&mut SafetensorsStore::from_file(&path))
        .unwrap();
    let mut loaded = blank(device, &config);
    loaded
        .load_from(&mut SafetensorsStore::from_file(&path))
        .unwrap();
    assert_same(&loaded, &pair, device);
}
