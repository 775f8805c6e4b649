//! What adapters change in a model.

use burn::module::{Param, ParamId};
use burn::tensor::Tensor;
use burn_qlora::{
    AdaptableHead, LayerRef, Layers, LoraBranch, LoraModel, QLoraLinear, TokenRows, WholeWeight,
};

use crate::block::Block;
use crate::model::Decoder;
use crate::tensors::{EMBEDDING, HEAD, module};

/// The layers are the projections of the blocks; a model loaded as trainable has none that can carry an adapter. The head carries one
/// beside its weight, its own or the embedding's.
impl LoraModel for Decoder {
    fn whole_weights(&self) -> Vec<WholeWeight> {
        let embedding = self.embed_tokens.weight.val();
        [
            (EMBEDDING, embedding, false),
            (HEAD, self.head(), self.lm_head.is_none()),
        ]
        .map(|(name, weight, shared)| WholeWeight {
            path: module(name).to_owned(),
            weight,
            shared,
        })
        .to_vec()
    }

    fn replace_weight(&mut self, path: &str, weight: Tensor<2>) {
        let frozen =
            |weight: Tensor<2>| Param::initialized(ParamId::new(), weight).set_require_grad(false);
        if path == module(EMBEDDING) {
            let head = self.head();
            self.lm_head.get_or_insert_with(|| frozen(head));
            self.embed_tokens.weight = frozen(weight);
        } else if path == module(HEAD) {
            self.lm_head = Some(frozen(weight));
        }
    }

    fn lora_head(&self) -> Option<AdaptableHead<'_>> {
        let config = self.config();
        Some(AdaptableHead {
            path: module(HEAD).to_owned(),
            shape: [config.vocab_size, config.hidden_size],
            device: self.device(),
            adapter: self.head_adapter.as_ref(),
        })
    }

    fn set_head_adapter(&mut self, adapter: Option<LoraBranch>) {
        self.head_adapter = adapter;
    }

    fn token_rows(&self) -> Vec<(String, &TokenRows)> {
        self.named_token_rows()
    }

    fn set_token_rows(&mut self, path: &str, rows: Option<TokenRows>) {
        self.set_rows_of(path, rows);
    }

    fn update_token_rows(&mut self, update: &mut dyn FnMut(Param<Tensor<2>>) -> Param<Tensor<2>>) {
        self.update_rows(update);
    }
}

impl Block {
    pub(crate) fn has_adapters(&self) -> bool {
        self.adapters().next().is_some()
    }

    pub(crate) fn has_dropout(&self) -> bool {
        self.adapters().any(|branch| branch.dropout.prob > 0.0)
    }

    /// Returns the adapters of the layers, in the order [`LoraModel`] names them.
    pub(crate) fn adapters(&self) -> impl Iterator<Item = &LoraBranch> {
        let linears = self.frozen_linears();
        linears.filter_map(|linear| linear.adapter.as_ref())
    }

    /// Returns the layers that can carry adapters, in the order [`LoraModel`] names them.
    pub(crate) fn frozen_linears(&self) -> impl Iterator<Item = &QLoraLinear> {
        let layers = Layers::of(self).into_iter();
        layers.filter_map(|(_, layer)| LayerRef::adaptable(layer))
    }
}
