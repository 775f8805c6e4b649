//! Tensors of CubeCL's devices, handed to kernels and back. Kernels copy what does not lie as they need it.

use std::fmt::Display;

use burn_core::backend::cubecl::{dtype_to_storage_type, elem_type_to_dtype};
use burn_cubecl::{CubeDevice, kernel::untile, tensor::CubeTensor};
use cubecl::{client::Client, ir::ElemType, std::tensor::TensorHandle};

/// The client and device of an operation's operands and results.
pub struct Context {
    client: Client,
    device: CubeDevice,
}

impl Context {
    /// Returns those of an operand.
    pub fn of(tensor: &CubeTensor) -> Self {
        Self {
            client: tensor.client.clone(),
            device: tensor.device.clone(),
        }
    }

    /// Returns the client that launches kernels.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns a kernel's result as a tensor.
    ///
    /// # Panics
    /// When the kernel refused its operands, with its reason.
    pub fn tensor(&self, result: Result<TensorHandle, impl Display>) -> CubeTensor {
        let [tensor] = self.tensors(result.map(|tensor| [tensor]));
        tensor
    }

    /// Returns a kernel's results as tensors.
    ///
    /// # Panics
    /// When the kernel refused its operands, with its reason.
    pub fn tensors<const N: usize>(
        &self,
        results: Result<[TensorHandle; N], impl Display>,
    ) -> [CubeTensor; N] {
        let tensors = results.unwrap_or_else(|error| panic!("{error}"));
        tensors.map(|tensor| self.owned(tensor))
    }

    /// Returns the results of a kernel that has a number of them as tensors.
    ///
    /// # Panics
    /// When the kernel refused its operands, with its reason.
    pub fn tensor_list(&self, results: Result<Vec<TensorHandle>, impl Display>) -> Vec<CubeTensor> {
        let tensors = results.unwrap_or_else(|error| panic!("{error}"));
        tensors
            .into_iter()
            .map(|tensor| self.owned(tensor))
            .collect()
    }

    fn owned(&self, tensor: TensorHandle) -> CubeTensor {
        let (client, device) = (self.client.clone(), self.device.clone());
        let dtype = elem_type_to_dtype(tensor.dtype);
        CubeTensor::new(client, tensor.handle, *tensor.metadata, device, dtype)
    }
}

/// Returns the tensor as kernels take it.
pub fn lend(tensor: CubeTensor) -> TensorHandle {
    untile(tensor).into()
}

/// Returns the type of the tensor's elements.
pub fn dtype(tensor: &CubeTensor) -> ElemType {
    dtype_to_storage_type(tensor.dtype)
}

/// Returns the types of the tensors' elements.
pub fn dtypes<const N: usize>(tensors: [&CubeTensor; N]) -> [ElemType; N] {
    tensors.map(dtype)
}
