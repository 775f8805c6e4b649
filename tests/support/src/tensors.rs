use burn_core::tensor::{Device, Tensor, TensorData};

/// The tensor of `values` in `shape`, row-major.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The values of an f32 tensor, row-major.
///
/// # Panics
/// If it is of another dtype.
#[track_caller]
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    let dtype = data.dtype();
    data.try_into_vec()
        .unwrap_or_else(|_| panic!("a tensor of {dtype:?} is read as f32"))
}
