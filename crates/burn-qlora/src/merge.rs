//! Dense weights with the adapters folded in.

use crate::head::merged_head;
use crate::layers::LayerMut;
use crate::linear::{BaseWeight, QLoraLinear, as_on, frozen};
use crate::model::LoraModel;
use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;

impl QLoraLinear {
    /// Returns `W + s · (A B)ᵀ`, dense: `[out_features, in_features]`, without autodiff.
    ///
    /// This is the one place where ΔW is formed, for export; training and inference never do.
    pub fn merged_weight(&self) -> Tensor<2> {
        let weight = match &self.weight {
            BaseWeight::Quantized(weight) => weight.tensor().dequantize(),
            BaseWeight::Paged(weight) => weight.tensor().dequantize(),
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

    /// Returns Burn's own layer that computes the same, dense, with the adapter folded in. It can be trained as a whole.
    pub fn merged(&self) -> Linear {
        // Burn's layer holds [in_features, out_features].
        let weight = as_on(self.merged_weight().transpose(), &self.device());
        let bias = self.bias.as_ref().map(|bias| bias.val().detach());
        Linear {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
        }
    }

    /// Folds the adapter into the weight, which is dense from then on, and frozen.
    pub fn merge(&mut self) {
        let weight = as_on(self.merged_weight(), &self.device());
        self.weight = BaseWeight::Dense(frozen(weight));
        self.adapter = None;
    }
}

impl LayerMut<'_> {
    pub(crate) fn merge(&mut self) {
        match self {
            Self::Any(layer) => layer.merge(),
            Self::QLora(layer) => layer.merge(),
        }
    }
}

/// Hands each layer's merged weight to `write`, one layer at a time, so that a model larger than memory
/// can be exported, and then that of a head with an adapter. `write` gets the layer's path and its weight
/// `[out_features, in_features]`; what it drops is gone before the next one is made.
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
    if let Some((path, weight)) = merged_head(model) {
        write(&path, weight)?;
    }
    Ok(())
}
