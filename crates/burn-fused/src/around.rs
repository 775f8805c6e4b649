//! What stands around linear layers of one input, for whoever computes them together.

use burn_core as burn;
use burn_core::backend::{Backend, Dispatch, ExtensionType, tensor::FloatTensor};
use burn_core::tensor::Tensor;

use crate::config::RmsNormConfig;
use crate::functions::{Activation, glu, rms_norm};
use crate::ops::FusedOps;

/// The operation before linear layers of one input.
#[derive(Clone, Debug)]
// An argument of a call, of which there are none in store: a box would be an allocation a layer and token.
#[allow(clippy::large_enum_variant)]
pub enum Prologue {
    /// None.
    None,
    /// [`rms_norm`].
    RmsNorm {
        /// `[in_features]`.
        weight: Tensor<1>,
        /// The rest of the norm.
        config: RmsNormConfig,
    },
}

impl Prologue {
    /// Maps `x: [.., in_features]` to what the layers take, of the same shape.
    ///
    /// # Panics
    /// As the operation.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::None => x,
            Self::RmsNorm { weight, config } => rms_norm(x, weight, config),
        }
    }
}

/// The operation behind linear layers of one input.
#[derive(Clone, Debug)]
// An argument of a call, of which there are none in store: a box would be an allocation a layer and token.
#[allow(clippy::large_enum_variant)]
pub enum Epilogue<const D: usize> {
    /// None: a result for each layer.
    None,
    /// The sum of the one layer's result and the residual stream.
    Add {
        /// `[.., out_features]`.
        residual: Tensor<D>,
    },
    /// [`glu`] of the results of two layers, a gate and what it gates.
    Glu {
        /// The activation of the gate.
        activation: Activation,
    },
}

impl<const D: usize> Epilogue<D> {
    /// Returns how many layers there must be, if that is not left open.
    pub fn layers(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Add { .. } => Some(1),
            Self::Glu { .. } => Some(2),
        }
    }

    /// Maps the results of the layers, `[.., out_features]` each, to those of the operation.
    ///
    /// # Panics
    /// As the operation, or when it is not of so many [layers](Self::layers).
    pub fn apply(self, mut products: Vec<Tensor<D>>) -> Vec<Tensor<D>> {
        let count = products.len();
        let [expected, found] = [self.layers().unwrap_or(count), count];
        assert_eq!(expected, found, "layers of an epilogue");
        match self {
            Self::None => products,
            Self::Add { residual } => products
                .pop()
                .map(|product| residual + product)
                .into_iter()
                .collect(),
            Self::Glu { activation } => {
                let up = products.pop().zip(products.pop());
                up.map(|(up, gate)| glu(gate, up, activation))
                    .into_iter()
                    .collect()
            }
        }
    }
}

/// A [`Prologue`] as a backend sees it.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum ProloguePrimitive<B: Backend> {
    /// None.
    None,
    /// [`FusedOps::rms_norm`].
    RmsNorm {
        /// `[in_features]`.
        weight: FloatTensor<B>,
        /// The rest of the norm.
        config: RmsNormConfig,
    },
}

impl<B: FusedOps> ProloguePrimitive<B> {
    /// Maps `x: [.., in_features]` as [`Prologue::apply`] does.
    pub fn apply(self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::None => x,
            Self::RmsNorm { weight, config } => B::rms_norm(x, weight, config),
        }
    }
}

impl From<Prologue> for ProloguePrimitive<Dispatch> {
    fn from(prologue: Prologue) -> Self {
        match prologue {
            Prologue::None => Self::None,
            Prologue::RmsNorm { weight, config } => Self::RmsNorm {
                weight: weight.dequantize().into_dispatch(),
                config,
            },
        }
    }
}

/// An [`Epilogue`] as a backend sees it.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum EpiloguePrimitive<B: Backend> {
    /// None: a result for each layer.
    None,
    /// The sum of the one layer's result and this.
    Add {
        /// `[.., out_features]`, in the dtype of the result.
        residual: FloatTensor<B>,
    },
    /// [`FusedOps::glu`] of the results of two layers.
    Glu {
        /// The activation of the first, the gate.
        activation: Activation,
    },
}

impl<B: FusedOps> EpiloguePrimitive<B> {
    /// Maps the results of as many layers as [`Epilogue::layers`] says, as [`Epilogue::apply`] does.
    pub fn apply(self, mut products: Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        match self {
            Self::None => products,
            Self::Add { residual } => {
                let product = products.pop();
                let sum = product.map(|product| B::float_add(residual, product));
                sum.into_iter().collect()
            }
            Self::Glu { activation } => {
                let up = products.pop().zip(products.pop());
                let gated = up.map(|(up, gate)| B::glu(gate, up, activation));
                gated.into_iter().collect()
            }
        }
    }
}

impl<const D: usize> From<Epilogue<D>> for EpiloguePrimitive<Dispatch> {
    fn from(epilogue: Epilogue<D>) -> Self {
        match epilogue {
            Epilogue::None => Self::None,
            Epilogue::Add { residual } => Self::Add {
                residual: residual.dequantize().into_dispatch(),
            },
            Epilogue::Glu { activation } => Self::Glu { activation },
        }
    }
}
