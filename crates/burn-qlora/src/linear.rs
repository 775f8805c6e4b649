//! The linear layer of a QLoRA model.

use crate::blockwise_weight::BlockwiseWeight;
use crate::branch::LoraBranch;
use crate::error::LoraError;
use crate::paged_weight::PagedWeight;
use std::sync::Arc;

use burn::module::{LoraAdapter, Module, Param};
use burn::nn::Linear;
use burn::tensor::kind::Autodiff;
use burn::tensor::{DType, Device, Tensor};
use burn_fused::{Epilogue, Prologue};
use burn_nf4::{BlockwiseLayer, BlockwiseTensor};
use burn_paged::{PagedError, WeightPages};
use nf4::{Layout, QuantConfig, QuantizedMatrix};

/// A linear layer with a frozen base weight and an optional LoRA branch:
/// `y = x · Wᵀ + s · (dropout(x) A) B + bias`.
///
/// It has the `forward` of Burn's [`Linear`] and takes its place in a module by a change of the field's
/// type. Only the branch ever trains: the base and the bias give no gradient, whatever `unfreeze` or
/// `set_require_grad` were told.
#[derive(Module, Debug)]
pub struct QLoraLinear {
    /// `[out_features, in_features]`, frozen.
    pub weight: BaseWeight,
    /// `[out_features]`, frozen.
    pub bias: Option<Param<Tensor<1>>>,
    /// The trainable branch.
    pub adapter: Option<LoraBranch>,
}

/// The frozen weight below the adapter of a [`QLoraLinear`].
#[derive(Module, Debug)]
pub enum BaseWeight {
    /// A packed weight, in 4 bits or in the blocks of a GGUF file.
    Quantized(BlockwiseWeight),
    /// A packed weight that is read when it is used.
    Paged(PagedWeight),
    /// A dense weight `[out_features, in_features]`, for plain LoRA.
    Dense(Param<Tensor<2>>),
}

impl BaseWeight {
    /// Moves a packed weight onto `device`.
    pub fn on_device(matrix: QuantizedMatrix, device: &Device) -> Self {
        Self::Quantized(BlockwiseWeight::new(BlockwiseTensor::upload(
            matrix, device,
        )))
    }

    /// Moves a packed weight, called `name`, into `pages`, or onto `device` where their budget lets it stay there.
    ///
    /// # Errors
    /// Pages that cannot be written.
    pub fn paged(
        matrix: QuantizedMatrix,
        name: &str,
        pages: &WeightPages,
        device: &Device,
    ) -> Result<Self, PagedError> {
        let page = pages.put(name, &[matrix.packed(), matrix.absmax()])?;
        Ok(match page {
            Some(page) => Self::Paged(PagedWeight::new(page, matrix.layout(), device.clone())),
            None => Self::on_device(matrix, device),
        })
    }

    /// Puts a packed weight of `layout`, called `name`, into `pages`, where `source` reads it when it is used; `None` if their budget
    /// lets it stay on `device`.
    ///
    /// # Errors
    /// One that is read at once, as pages in memory are, and cannot be.
    pub fn unread(
        layout: Layout,
        name: &str,
        pages: &WeightPages,
        source: impl Fn() -> Result<QuantizedMatrix, String> + Send + Sync + 'static,
        device: &Device,
    ) -> Result<Option<Self>, PagedError> {
        let len = layout.packed_words() + layout.absmax_words();
        let source = Arc::new(move || {
            let matrix = source()?;
            if matrix.layout() != layout {
                return Err("its file has another format than when it was opened".to_owned());
            }
            let (_, mut words, absmax) = matrix.into_parts();
            words.extend(absmax);
            Ok(words)
        });
        let page = pages.put_unread(name, len, source)?;
        Ok(page.map(|page| Self::Paged(PagedWeight::new(page, layout, device.clone()))))
    }

    /// Returns the words of a packed weight, which are read to the device if they are in a page; `None` for a dense one.
    pub fn packed(&self) -> Option<BlockwiseTensor> {
        match self {
            Self::Quantized(weight) => Some(weight.tensor()),
            Self::Paged(weight) => Some(weight.tensor()),
            Self::Dense(_) => None,
        }
    }
}

impl QLoraLinear {
    /// Quantizes the weight of a Burn layer; the bias stays as it is.
    ///
    /// # Errors
    /// [`LoraError::Quantize`] when the configuration is invalid.
    pub fn from_linear(linear: Linear, config: QuantConfig) -> Result<Self, LoraError> {
        // Burn's layer holds [in_features, out_features].
        let weight = linear.weight.val();
        let device = weight.device();
        let quantized = BlockwiseTensor::quantize(weight.transpose(), config)?;
        let bias = linear.bias.map(|bias| bias.val().detach());
        Ok(Self::quantized(on(quantized, &device)?, bias))
    }

    /// Quantizes a dense weight where it is; adapter and bias stay as they are. What is packed already stays so.
    ///
    /// # Errors
    /// [`LoraError::Quantize`] when the configuration is invalid, or the weight holds what is not finite; the layer is then as it
    /// was.
    pub fn quantize(&mut self, config: QuantConfig) -> Result<(), LoraError> {
        if let BaseWeight::Dense(weight) = &self.weight {
            let weight = weight.val();
            let device = weight.device();
            let quantized = on(BlockwiseTensor::quantize(weight, config)?, &device)?;
            self.weight = BaseWeight::Quantized(BlockwiseWeight::new(quantized));
        }
        Ok(())
    }

    /// Returns a layer on a packed weight. `bias: [out_features]`.
    pub fn quantized(weight: BlockwiseTensor, bias: Option<Tensor<1>>) -> Self {
        Self::on_weight(BaseWeight::Quantized(BlockwiseWeight::new(weight)), bias)
    }

    /// Returns a layer on a dense weight. `weight: [out_features, in_features]`, `bias: [out_features]`.
    pub fn dense(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self::on_weight(BaseWeight::Dense(frozen(weight)), bias)
    }

    /// Returns a layer on any weight. `bias: [out_features]`.
    pub fn on_weight(weight: BaseWeight, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight,
            bias: bias.map(frozen),
            adapter: None,
        }
    }

    /// Returns the same layer with `branch` in place of the adapter it had.
    pub fn with_adapter(mut self, branch: LoraBranch) -> Self {
        self.adapter = Some(branch);
        self
    }

    /// Returns the shape, `[out_features, in_features]`.
    pub fn shape(&self) -> [usize; 2] {
        match &self.weight {
            BaseWeight::Quantized(weight) => weight.layout().shape(),
            BaseWeight::Paged(weight) => weight.layout().shape(),
            BaseWeight::Dense(weight) => weight.lazy_shape().dims(),
        }
    }

    /// Returns the device of the base weight.
    pub fn device(&self) -> Device {
        match &self.weight {
            BaseWeight::Quantized(weight) => weight.device(),
            BaseWeight::Paged(weight) => weight.device().clone(),
            BaseWeight::Dense(weight) => weight.lazy_device(),
        }
    }

    /// Maps `x: [..., in_features]` to `[..., out_features]`, in x's dtype. Of an `x` without rows the result has none
    /// either, and is a constant.
    ///
    /// # Panics
    /// When the last axis of `x` is not `in_features`, `x` is on another device, or the adapter's factors do not fit.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        Self::forward_each(&[self], x).remove(0)
    }

    /// Maps `x: [..., in_features]` through each of some layers, as [`forward`](Self::forward) does: what they have in common is
    /// done once, where their weights are packed and their backend knows how.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), for any of the layers.
    pub fn forward_each<const D: usize>(layers: &[&Self], x: Tensor<D>) -> Vec<Tensor<D>> {
        Self::forward_fused(layers, x, Prologue::None, Epilogue::None)
    }

    /// Returns the results of the `epilogue` of [`forward_each`](Self::forward_each), whose `x` goes through the `prologue` before:
    /// as one operation where the weights are packed, no layer has a bias and their backend knows how
    /// ([`BlockwiseLayer::forward_fused`]). For generation: training has operations that do more in a pass
    /// ([`burn_fused::add_rms_norm`]).
    ///
    /// # Panics
    /// As [`forward`](Self::forward), for any of the layers, and as prologue and epilogue.
    pub fn forward_fused<const D: usize>(
        layers: &[&Self],
        x: Tensor<D>,
        prologue: Prologue,
        epilogue: Epilogue<D>,
    ) -> Vec<Tensor<D>> {
        for layer in layers {
            let [out_features, in_features] = layer.shape();
            assert_eq!(
                x.dims()[D - 1],
                in_features,
                "a QLoraLinear of [{out_features}, {in_features}] was given x of {:?}",
                x.dims()
            );
        }
        if x.dims()[..D - 1].contains(&0) {
            let results = layers.iter().map(|layer| layer.of_no_rows(&x));
            return epilogue.apply(results.collect());
        }
        let packed: Vec<_> = layers.iter().map(|layer| layer.packed_for(&x)).collect();
        let are_packed = packed.iter().all(Option::is_some);
        if are_packed && layers.iter().all(|layer| layer.bias.is_none()) {
            let layers = packed.into_iter().flatten().collect();
            return BlockwiseLayer::forward_fused(layers, x, prologue, epilogue)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        let x = prologue.apply(x);
        let dtype = x.dtype();
        let packed_forward = |layers, x| {
            BlockwiseLayer::forward_each(layers, x).unwrap_or_else(|error| panic!("{error}"))
        };
        let products: Vec<_> = if are_packed {
            packed_forward(packed.into_iter().flatten().collect(), x)
        } else {
            let layers = layers.iter().zip(packed);
            layers
                .map(|(layer, packed)| match packed {
                    Some(packed) => packed_forward(vec![packed], x.clone()).remove(0),
                    None => layer.composed(x.clone()),
                })
                .collect()
        };
        let products = layers.iter().zip(products);
        let products = products.map(|(layer, product)| match &layer.bias {
            Some(bias) => product + constant(bias, dtype).unsqueeze(),
            None => product,
        });
        epilogue.apply(products.collect())
    }

    /// Returns whether [`forward_fused`](Self::forward_fused) computes the layer of `x` and an epilogue in one.
    pub fn fuses<const D: usize>(&self, x: &Tensor<D>) -> bool {
        let is_packed = !matches!(self.weight, BaseWeight::Dense(_));
        is_packed && self.bias.is_none() && self.adapter.is_none() && burn_nf4::fuses_layers(x)
    }

    /// Returns the result for an `x` without rows, where Burn's `reshape` would take a length of 0 for the one that the axis has.
    fn of_no_rows<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
        let mut dims = x.dims();
        dims[D - 1] = self.shape()[0];
        Tensor::zeros(dims, (&x.device(), x.dtype()))
    }

    /// Returns weight and adapter as one operation takes them that maps `x` through them; `None` where there is none.
    fn packed_for<const D: usize>(&self, x: &Tensor<D>) -> Option<BlockwiseLayer> {
        let branch = match &self.adapter {
            Some(branch) if !branch.is_plain(x) => return None,
            branch => branch,
        };
        let weight = self.weight.packed()?;
        let Some(branch) = branch else {
            return Some(BlockwiseLayer::new(weight));
        };
        let LoraAdapter { a, b, scale, .. } = &branch.lora;
        let layer = BlockwiseLayer::adapted(weight, a.val(), b.val(), *scale);
        // Both products in one operation, which keeps nothing but `x` and the factors.
        Some(layer.unwrap_or_else(|error| panic!("{error}")))
    }

    /// Returns what the weight and the adapter make of `x`, each by operations of its own.
    fn composed<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut dims = x.dims();
        let [out_features, in_features] = self.shape();
        let dtype = x.dtype();
        let rows = dims[..D - 1].iter().product::<usize>();
        let x: Tensor<2> = x.reshape([rows, in_features]);
        let base = match &self.weight {
            BaseWeight::Quantized(weight) => weight.tensor().matmul(x.clone()),
            BaseWeight::Paged(weight) => weight.tensor().matmul(x.clone()),
            BaseWeight::Dense(weight) => {
                burn_fused::matmul(x.clone(), constant(weight, dtype).transpose())
            }
        };
        let y = match &self.adapter {
            Some(branch) => base + branch.forward(x),
            None => base,
        };
        dims[D - 1] = out_features;
        y.reshape(dims)
    }
}

/// Returns the words with the autodiff setting of `device`, which quantizing drops: adapters are made where the
/// words are, and shall train there.
fn on(weight: BlockwiseTensor, device: &Device) -> Result<BlockwiseTensor, LoraError> {
    let (packed, absmax, layout) = weight.into_parts();
    let [packed, absmax] = [packed, absmax].map(|words| as_on(words, device));
    Ok(BlockwiseTensor::from_parts(packed, absmax, layout)?)
}

/// Returns `tensor` with the autodiff setting of `device`.
pub(crate) fn as_on<const D: usize, K: Autodiff>(
    tensor: Tensor<D, K>,
    device: &Device,
) -> Tensor<D, K> {
    match device.gradient_checkpointing_strategy() {
        Some(strategy) => tensor
            .autodiff()
            .with_gradient_checkpointing_strategy(strategy),
        None => tensor,
    }
}

/// Returns a parameter that asks for no gradient.
pub(crate) fn frozen<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(value).set_require_grad(false)
}

/// Returns the value as a constant of the graph, in `dtype`.
fn constant<const D: usize>(param: &Param<Tensor<D>>, dtype: DType) -> Tensor<D> {
    let value = param.val().without_autodiff();
    if value.dtype() == dtype {
        value
    } else {
        value.cast(dtype)
    }
}
