//! The recorded outputs of bitsandbytes, transformers, peft and torch.

use std::path::PathBuf;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// The file or folder `name` of the recordings: in the folder that the environment variable
/// `QLORA_FIXTURES` names, else in `tests/fixtures`.
pub fn path(name: &str) -> PathBuf {
    std::env::var_os("QLORA_FIXTURES")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")))
        .join(name)
}

/// The JSON file `name` of the recordings.
pub fn json(name: &str) -> serde_json::Value {
    let path = path(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A recorded safetensors file.
pub struct Recording {
    bytes: Vec<u8>,
}

impl Recording {
    /// Reads the file `name` of the recordings.
    pub fn open(name: &str) -> Self {
        let path = path(name);
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { bytes }
    }

    /// The names of the tensors.
    pub fn names(&self) -> Vec<String> {
        self.tensors()
            .names()
            .iter()
            .map(|name| name.to_string())
            .collect()
    }

    /// The shape of tensor `name`.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.view(name).shape().to_vec()
    }

    /// The values of the f32 tensor `name`.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).expect(name);
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        view.data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    /// The values of the i64 tensor `name`.
    pub fn ints(&self, name: &str) -> Vec<i64> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).expect(name);
        assert_eq!(view.dtype(), Dtype::I64, "{name}");
        view.data()
            .chunks_exact(8)
            .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    /// The i64 tensor `name` on `device`, as 32-bit integers.
    pub fn int_tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        let values: Vec<i32> = self
            .ints(name)
            .into_iter()
            .map(|value| value as i32)
            .collect();
        let data = TensorData::new(values, self.shape(name));
        Tensor::from_data(data, (device, DType::I32))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a recorded safetensors file")
    }

    fn view(&self, name: &str) -> safetensors::tensor::TensorView<'_> {
        self.tensors().tensor(name).expect(name)
    }
}
