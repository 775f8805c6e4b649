//! Burn's own files.

use crate::support::{Pair, input};
use burn::module::{Module, Param};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::{DType, Device, Int, Tensor};
use burn_qlora::{BaseWeight, BlockwiseTensor, BlockwiseWeight, Codebook, LoraConfig, QuantConfig};
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

fn weight(shape: [usize; 2], config: QuantConfig, device: &Device) -> BlockwiseWeight {
    let values = Tensor::ones(shape, device);
    BlockwiseWeight::new(BlockwiseTensor::quantize(values, config).unwrap())
}

pub fn words_of_another_format_are_refused(device: &Device) {
    let config = QuantConfig::default();
    let own = weight([24, 40], config, device);
    let record = |weight: &BlockwiseWeight| {
        let bytes = weight.clone().into_record().into_bytes().unwrap();
        ModuleRecord::from_bytes(bytes).unwrap()
    };
    own.clone().try_load_record(record(&own)).unwrap();
    // As many words all of them, but not the same ones.
    let int4 = QuantConfig {
        codebook: Codebook::Int4,
        ..config
    };
    let dir = tempfile::tempdir().unwrap();
    for other in [
        weight([40, 24], config, device),
        weight([24, 40], int4, device),
    ] {
        let error = own.clone().try_load_record(record(&other)).unwrap_err();
        assert!(
            matches!(&error, RecordError::Validation(text) if text.contains("format")),
            "{error}"
        );
        let path = dir.path().join("weight.safetensors");
        let mut store = SafetensorsStore::from_file(&path).overwrite(true);
        other.save_into(&mut store).unwrap();
        let mut loaded = own.clone();
        let error = loaded.load_from(&mut store).unwrap_err();
        assert!(error.to_string().contains("format"), "{error}");
    }
}

/// A weight as it was before it had a `format`.
#[derive(Module, Debug)]
struct Words {
    packed: Param<Tensor<1, Int>>,
    absmax: Param<Tensor<1, Int>>,
}

pub fn a_record_from_before_formats_is_refused_as_incomplete(device: &Device) {
    let own = weight([24, 40], QuantConfig::default(), device);
    let old = Words {
        packed: own.packed.clone(),
        absmax: own.absmax.clone(),
    };
    let record = old.into_record();
    let error = own.clone().try_load_record(record.clone()).unwrap_err();
    assert!(
        matches!(&error, RecordError::Validation(text) if text.contains("format")),
        "{error}"
    );
    own.try_load_record(record.allow_partial(true)).unwrap();
}
