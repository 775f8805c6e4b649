//! The head of a language model, which can carry an adapter beside the layers.

use burn::tensor::{Device, Tensor};

use crate::branch::LoraBranch;
use crate::model::{LoraModel, WholeWeight};

/// A head that can carry an adapter: its logits are `h · Wᵀ + s · (dropout(h) A) B`.
///
/// Its weight is among the model's [`whole_weights`](LoraModel::whole_weights), its own or that of the embedding, and stays as it is.
#[derive(Debug, Clone)]
pub struct AdaptableHead<'a> {
    /// The path of the module, as Hugging Face gives it.
    pub path: String,
    /// `[vocab, hidden]`, the `[out_features, in_features]` of a layer.
    pub shape: [usize; 2],
    /// Where its factors are to be.
    pub device: Device,
    /// The adapter that it carries.
    pub adapter: Option<&'a LoraBranch>,
}

/// Returns the path of the head of `model` and its weight with the adapter folded in, `[vocab, hidden]`, without autodiff; `None` where
/// it has no adapter.
pub(crate) fn merged_head<M: LoraModel + ?Sized>(model: &M) -> Option<(String, Tensor<2>)> {
    let head = model.lora_head()?;
    let delta = head.adapter?.lora.delta().without_autodiff().transpose();
    let mut weights = model.whole_weights().into_iter();
    let WholeWeight { path, weight, .. } = weights.find(|weight| weight.path == head.path)?;
    let weight = weight.without_autodiff();
    let dtype = weight.dtype();
    Some((path, weight + delta.cast(dtype)))
}
