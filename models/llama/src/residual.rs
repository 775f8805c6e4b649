//! The residual stream.

use burn::tensor::Tensor;

/// The residual stream between two layers: `stream + update`, each `[batch, seq, hidden]`.
///
/// What a layer adds to the stream is carried beside it until the next norm, which adds the two in the
/// same pass over memory as it normalizes them, forward and backward.
#[derive(Clone, Debug)]
pub struct Residual {
    /// The stream before the last layer.
    pub stream: Tensor<3>,
    /// The values that that layer adds.
    pub update: Option<Tensor<3>>,
}

impl Residual {
    /// Returns the stream with `update` to be added.
    pub fn new(stream: Tensor<3>, update: Tensor<3>) -> Self {
        Self {
            stream,
            update: Some(update),
        }
    }

    /// Returns the stream as it is now.
    pub fn sum(self) -> Tensor<3> {
        match self.update {
            Some(update) => self.stream + update,
            None => self.stream,
        }
    }
}

impl From<Tensor<3>> for Residual {
    fn from(stream: Tensor<3>) -> Self {
        Self {
            stream,
            update: None,
        }
    }
}
