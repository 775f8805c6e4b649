use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};

use crate::fixtures::read_fixture;

/// A recorded safetensors file. A tensor that is missing or of another dtype than it is read as ends the test with its name.
pub struct Recording {
    name: String,
    bytes: Vec<u8>,
    /// Offset of the tensors' bytes.
    start: usize,
    metadata: Metadata,
}

impl Recording {
    /// Reads the file `name` of the recordings.
    ///
    /// # Panics
    /// If it cannot be read or is no safetensors file.
    #[track_caller]
    pub fn open(name: &str) -> Self {
        let bytes = read_fixture(name);
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .unwrap_or_else(|error| panic!("{name} is no safetensors file: {error}"));
        Self {
            name: name.to_owned(),
            start: header + 8,
            bytes,
            metadata,
        }
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.metadata.tensors().into_keys().collect();
        names.sort();
        names
    }

    /// Returns whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The tensor `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let TensorInfo { dtype, shape, .. } = self.metadata.info(name)?;
        let view = TensorView::new(*dtype, shape.clone(), self.bytes(name));
        Some(view.expect("the header was checked"))
    }

    /// The shape of tensor `name`.
    #[track_caller]
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.info(name).shape.clone()
    }

    /// The bytes of tensor `name`.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> &[u8] {
        let (from, to) = self.info(name).data_offsets;
        &self.bytes[self.start + from..self.start + to]
    }

    /// The values of the f32 tensor `name`.
    #[track_caller]
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let values = self.of(name, Dtype::F32).as_chunks().0.iter();
        values.map(|value| f32::from_le_bytes(*value)).collect()
    }

    /// The values of the f64 tensor `name`.
    #[track_caller]
    pub fn f64(&self, name: &str) -> Vec<f64> {
        let values = self.of(name, Dtype::F64).as_chunks().0.iter();
        values.map(|value| f64::from_le_bytes(*value)).collect()
    }

    /// The values of the i64 tensor `name`.
    #[track_caller]
    pub fn i64(&self, name: &str) -> Vec<i64> {
        let values = self.of(name, Dtype::I64).as_chunks().0.iter();
        values.map(|value| i64::from_le_bytes(*value)).collect()
    }

    #[track_caller]
    fn of(&self, name: &str, dtype: Dtype) -> &[u8] {
        assert_eq!(self.info(name).dtype, dtype, "{name} of {}", self.name);
        self.bytes(name)
    }

    #[track_caller]
    fn info(&self, name: &str) -> &TensorInfo {
        let info = self.metadata.info(name);
        info.unwrap_or_else(|| panic!("{} has no tensor {name}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_read_by_name_and_dtype() {
        let recording = Recording::open("matmul.safetensors");
        let name = "m5_k192_n96/x";
        assert!(recording.has(name) && !recording.has("x"));
        assert!(recording.names().iter().any(|known| known == name));
        assert_eq!(recording.shape(name), [5, 192]);
        assert_eq!(recording.f32(name).len(), 5 * 192);
        let expected = SafeTensors::deserialize(&recording.bytes).unwrap();
        let expected = expected.tensor(name).unwrap();
        assert_eq!(recording.bytes(name), expected.data());
        assert_eq!(recording.get(name).unwrap().dtype(), Dtype::F32);
        assert_eq!(recording.f64("m5_k192_n96/y").len(), 5 * 96);
    }

    #[test]
    #[should_panic(expected = "m5_k192_n96/y of matmul.safetensors")]
    fn another_dtype_is_refused() {
        Recording::open("matmul.safetensors").f32("m5_k192_n96/y");
    }

    #[test]
    #[should_panic(expected = "matmul.safetensors has no tensor z")]
    fn a_missing_tensor_is_named() {
        Recording::open("matmul.safetensors").bytes("z");
    }
}
