//! The low-rank branch of a layer.

use crate::config::LoraConfig;
use crate::error::LoraError;
use burn::module::{LoraAdapter, Module, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// `s · (dropout(x) A) B`, what LoRA adds to a layer's output.
///
/// ΔW = `A B` is never formed: the scale goes on the small `[m, rank]` product.
#[derive(Module, Debug)]
pub struct LoraBranch {
    /// Burn's own adapter: `a: [in_features, rank]`, `b: [rank, out_features]` (peft stores both
    /// transposed) and the scale.
    pub lora: LoraAdapter,
    /// Dropout on the branch's input, active in training only.
    pub dropout: Dropout,
}

impl LoraBranch {
    /// Returns a branch of given factors, `a: [in_features, rank]` and `b: [rank, out_features]`.
    ///
    /// # Errors
    /// The errors of [`LoraConfig::validate`].
    ///
    /// # Panics
    /// When the factors do not have the configured rank.
    pub fn new(a: Tensor<2>, b: Tensor<2>, config: &LoraConfig) -> Result<Self, LoraError> {
        config.validate()?;
        assert_eq!(
            (a.dims()[1], b.dims()[0]),
            (config.rank, config.rank),
            "the inner dimensions of a LoRA pair should be the configured rank"
        );
        Ok(Self {
            lora: LoraAdapter {
                a: Param::from_tensor(a),
                b: Param::from_tensor(b),
                scale: config.scale(),
            },
            dropout: DropoutConfig::new(config.dropout).init(),
        })
    }

    /// Returns a branch of factors in peft's orientation and order, `a: [rank, in_features]` and
    /// `b: [out_features, rank]`, on `device` in f32.
    ///
    /// They are transposed on the host: a view would give the same numbers another memory layout than a
    /// trained or recorded factor has, and with it another rounding in the products.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`LoraError::TooLarge`].
    pub(crate) fn from_peft(
        a: &[f32],
        b: &[f32],
        config: &LoraConfig,
        device: &Device,
    ) -> Result<Self, LoraError> {
        config.validate()?;
        let shape = [b.len() / config.rank, a.len() / config.rank];
        let factor = |values: &[f32], rows: usize| -> Result<Tensor<2>, LoraError> {
            let columns = values.len() / rows;
            let mut transposed = room_for(values.len(), config.rank, shape)?;
            transposed.extend(
                (0..values.len()).map(|place| values[place % rows * columns + place / rows]),
            );
            let data = TensorData::new(transposed, [columns, rows]);
            Ok(Tensor::from_data(data, (device, DType::F32)))
        };
        Self::new(factor(a, config.rank)?, factor(b, shape[0])?, config)
    }

    /// Sets the first of the rank's directions: `left: [n, out_features]`, which is of B, and `right: [n, in_features]`, of A, so
    /// that the branch adds `leftᵀ · right` for them. The others stay.
    ///
    /// # Errors
    /// [`LoraError::Device`] when the factors cannot be read.
    pub(crate) fn set_leading(
        &mut self,
        left: &[f32],
        right: &[f32],
        device: &Device,
    ) -> Result<(), LoraError> {
        let [in_features, rank] = self.lora.a.dims();
        let out_features = self.lora.b.dims()[1];
        // The scale is half in each factor, its sign in B.
        let root = self.lora.scale.abs().sqrt().recip();
        let (a_scale, b_scale) = (root as f32, (root * self.lora.scale.signum()) as f32);
        let (mut a, mut b) = (to_host("A", &self.lora.a)?, to_host("B", &self.lora.b)?);
        for (at, value) in right.iter().enumerate() {
            a[at % in_features * rank + at / in_features] = a_scale * value;
        }
        for (value, left) in b.iter_mut().zip(left) {
            *value = b_scale * left;
        }
        let factor = |values, shape| {
            let data = TensorData::new(values, shape);
            Param::from_tensor(Tensor::from_data(data, (device, DType::F32)))
        };
        self.lora.a = factor(a, [in_features, rank]);
        self.lora.b = factor(b, [rank, out_features]);
        Ok(())
    }

    /// Returns the rank of the product.
    pub fn rank(&self) -> usize {
        self.lora.a.dims()[1]
    }

    /// Returns the first field in which the branch is not as `config` says: its name, its value here, its value there.
    pub(crate) fn difference(&self, config: &LoraConfig) -> Option<(&'static str, f64, f64)> {
        [
            ("rank", self.rank() as f64, config.rank as f64),
            ("scale", self.lora.scale, config.scale()),
            ("dropout", self.dropout.prob, config.dropout),
        ]
        .into_iter()
        .find(|(_, has, says)| has != says)
    }

    /// Returns whether the branch of `x` is two products and nothing else, which a packed weight takes into its own: dropout falls
    /// in training alone.
    pub(crate) fn is_plain<const D: usize>(&self, x: &Tensor<D>) -> bool {
        let f32 = |factor: &Param<Tensor<2>>| factor.val().dtype() == DType::F32;
        let drops = self.dropout.prob != 0.0 && x.device().is_autodiff();
        !drops && f32(&self.lora.a) && f32(&self.lora.b)
    }

    /// Returns the number of trainable values.
    pub fn num_params(&self) -> usize {
        self.lora.a.shape().num_elements() + self.lora.b.shape().num_elements()
    }

    /// Maps `x: [m, in_features]` to `[m, out_features]`, in x's dtype.
    ///
    /// The factors compute in their own dtype: adapters stay f32 under a half-precision model.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        let y = burn_fused::matmul(self.inner(x), self.lora.b.val());
        if y.dtype() == dtype { y } else { y.cast(dtype) }
    }

    /// Maps `x: [m, in_features]` to `s · (dropout(x) A)`, `[m, rank]`, in the factors' dtype: what [`forward`](Self::forward)
    /// multiplies by B.
    pub fn inner(&self, x: Tensor<2>) -> Tensor<2> {
        let a = self.lora.a.val();
        let x = self.dropout.forward(x);
        let x = if a.dtype() == x.dtype() {
            x
        } else {
            x.cast(a.dtype())
        };
        burn_fused::matmul(x, a).mul_scalar(self.lora.scale)
    }
}

/// Copies the factor called `name` to the host.
fn to_host(name: &str, factor: &Param<Tensor<2>>) -> Result<Vec<f32>, LoraError> {
    let device_error = |reason: String| LoraError::Device {
        name: name.to_owned(),
        reason,
    };
    let values = factor.val().without_autodiff().cast(DType::F32);
    let data = values
        .try_into_data()
        .map_err(|error| device_error(error.to_string()))?;
    data.try_into_vec()
        .map_err(|error| device_error(format!("{error:?}")))
}

/// Returns an empty list with room for `len` values of a factor of a layer of `shape`.
///
/// # Errors
/// [`LoraError::TooLarge`].
pub(crate) fn room_for(len: usize, rank: usize, shape: [usize; 2]) -> Result<Vec<f32>, LoraError> {
    let mut values = Vec::new();
    match values.try_reserve_exact(len) {
        Ok(()) => Ok(values),
        Err(_) => Err(LoraError::TooLarge { rank, shape }),
    }
}
