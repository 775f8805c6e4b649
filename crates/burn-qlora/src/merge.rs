//! Dense weights with the adapters folded in.

use crate::linear::{BaseWeight, QLoraLinear};
use crate::model::LoraModel;
use burn::tensor::Tensor;

impl QLoraLinear {
    /// Returns `W + s · (A B)ᵀ`, dense: `[out_features, in_features]`, without autodiff.
    ///
    /// This is the one place where ΔW is formed, for export; training and inference never do.
    pub fn merged_weight(&self) -> Tensor<2> {
        let weight = match &self.weight {
            BaseWeight::Quantized(weight) => weight.tensor().dequantize(),
            BaseWeight::Dense(weight) => weight.val(),
        }
        .without_autodiff();
        match &self.adapter {
            Some(branch) => {
                let delta = branch.lora.delta().without_autodiff().transpose();
                let dtype = weight.dtype();
                weight + delta.cast(dtype)
            }
            None => weight,
        }
    }
}

/// Hands each layer's merged weight to `write`, one layer at a time, so that a model larger than memory
/// can be exported. `write` gets the layer's path and its weight `[out_features, in_features]`; what it
/// drops is gone before the next one is made.
///
/// # Errors
/// The first error of `write`.
pub fn merge_linears<M: LoraModel, E>(
    model: &M,
    mut write: impl FnMut(&str, Tensor<2>) -> Result<(), E>,
) -> Result<(), E> {
    for (path, linear) in model.lora_linears() {
        write(&path, linear.merged_weight())?;
    }
    Ok(())
}
