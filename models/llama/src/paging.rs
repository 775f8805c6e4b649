//! Weights in pages: the order in which the blocks ask for theirs.

use burn_paged::{PagedError, WeightPage, WeightPages};
use burn_qlora::{BaseWeight, QLoraLinear};

use crate::block::Block;
use crate::model::Decoder;

impl Decoder {
    /// Says that `blocks` will run in this order, so that their weights are read ahead.
    pub(crate) fn announce<'a>(&self, blocks: impl IntoIterator<Item = &'a Block>) {
        let Some(pages) = &self.pages else { return };
        let weights = blocks.into_iter().flat_map(Block::frozen_linears);
        pages.announce(weights.filter_map(page));
    }

    /// Checks that all weights that were asked for could be read.
    ///
    /// # Errors
    /// The first that could not.
    pub(crate) fn check_weights(&self) -> Result<(), PagedError> {
        self.pages.as_ref().map_or(Ok(()), WeightPages::check)
    }
}

fn page(linear: &QLoraLinear) -> Option<&WeightPage> {
    match &linear.weight {
        BaseWeight::Paged(weight) => Some(weight.page()),
        BaseWeight::Quantized(_) | BaseWeight::Dense(_) => None,
    }
}
