//! From a checkpoint to a model on a device, one tensor at a time.

use burn::module::{Param, ParamId};
use burn::nn::{Embedding, Linear};
use burn::tensor::{Device, Tensor, TensorData};
#[cfg(feature = "qlora")]
use burn_qlora::{Nf4Tensor, QLoraLinear};
use nf4::QuantConfig;
#[cfg(feature = "qlora")]
use nf4::QuantizedMatrix;

use crate::attention::Attention;
use crate::block::Block;
use crate::checkpoint::Checkpoint;
use crate::config::LlamaConfig;
use crate::dtype::ComputeDtype;
use crate::error::LlamaError;
use crate::mlp::Mlp;
use crate::model::Llama;
use crate::norm::RmsNorm;
use crate::projection::Projection;
use crate::tensors::{EMBEDDING, FINAL_NORM, HEAD, ProjectionSpec};

/// Options of [`Llama::load`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Form of the weights on the device.
    pub weights: Weights,
    /// Dtype that the model computes in and that its dense weights get.
    pub compute_dtype: ComputeDtype,
}

/// Form of a checkpoint's weights on the device. Those that are not in 4 bits get the compute dtype, as embedding,
/// head, norms and biases always do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Weights {
    /// Frozen; projections that bitsandbytes stored in 4 bits stay so bit for bit, others are dense.
    #[default]
    AsStored,
    /// Frozen; projections in 4 bits of this kind. Those already stored so are kept bit for bit.
    #[cfg(feature = "qlora")]
    Quantized(QuantConfig),
    /// Frozen; all dense.
    Dense,
    /// All dense in Burn's own layers, every parameter wanting a gradient. In less than f32 small updates are lost.
    Trainable,
}

impl LoadOptions {
    /// Returns options with these weights, in f32.
    pub fn new(weights: Weights) -> Self {
        Self {
            weights,
            compute_dtype: ComputeDtype::F32,
        }
    }

    /// Sets the compute dtype.
    pub fn with_compute_dtype(mut self, dtype: ComputeDtype) -> Self {
        self.compute_dtype = dtype;
        self
    }

    /// Returns options with frozen projections in 4 bits.
    #[cfg(feature = "qlora")]
    pub fn quantized(config: QuantConfig) -> Self {
        Self::new(Weights::Quantized(config))
    }
}

impl ComputeDtype {
    /// Checks that `device` can compute in it.
    ///
    /// # Errors
    /// [`LlamaError::ComputeDtype`] when it cannot.
    pub fn check(self, device: &Device) -> Result<(), LlamaError> {
        if device.supports_dtype(self.dtype()) {
            return Ok(());
        }
        Err(LlamaError::ComputeDtype {
            dtype: self,
            device: format!("{:?}", device.clone().without_autodiff()),
        })
    }
}

impl Llama {
    /// Reads a model tensor by tensor, quantizing each on the host as it comes.
    ///
    /// Beside the model itself, memory holds one tensor in f32. Tied embeddings are one tensor. With
    /// `device.autodiff()` the model can be trained, or carry adapters that are.
    ///
    /// # Errors
    /// [`LlamaError::ComputeDtype`] before anything is read, when the device does not have the dtype; a
    /// tensor that is missing, damaged or of another shape than the configuration asks for; weights that are
    /// not finite or already quantized in another way, where they are to be quantized.
    pub fn load(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        device: &Device,
    ) -> Result<Self, LlamaError> {
        options.compute_dtype.check(device)?;
        let loader = Loader {
            checkpoint,
            config: checkpoint.config(),
            options,
            device,
        };
        loader.model()
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a LlamaConfig,
    options: &'a LoadOptions,
    device: &'a Device,
}

impl Loader<'_> {
    fn model(&self) -> Result<Llama, LlamaError> {
        let config = self.config;
        let table = [config.vocab_size, config.hidden_size];
        let embed_tokens = Embedding {
            weight: self.param(EMBEDDING, table)?,
        };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| self.block(&format!("model.layers.{layer}")))
            .collect::<Result<_, _>>()?;
        let norm = self.norm(FINAL_NORM)?;
        let lm_head = (!config.tie_word_embeddings)
            .then(|| self.param(HEAD, table))
            .transpose()?;
        Ok(Llama::from_parts(
            config.clone(),
            embed_tokens,
            layers,
            norm,
            lm_head,
        ))
    }

    fn block(&self, prefix: &str) -> Result<Block, LlamaError> {
        let [q, k, v, o, gate, up, down] = self.config.projections();
        let projection = |spec| self.projection(prefix, spec);
        Ok(Block {
            input_layernorm: self.norm(&format!("{prefix}.input_layernorm.weight"))?,
            self_attn: Attention::new(
                self.config,
                projection(q)?,
                projection(k)?,
                projection(v)?,
                projection(o)?,
            ),
            post_attention_layernorm: self
                .norm(&format!("{prefix}.post_attention_layernorm.weight"))?,
            mlp: Mlp {
                gate_proj: projection(gate)?,
                up_proj: projection(up)?,
                down_proj: projection(down)?,
            },
        })
    }

    fn norm(&self, name: &str) -> Result<RmsNorm, LlamaError> {
        Ok(RmsNorm {
            weight: self.param(name, [self.config.hidden_size])?,
            eps: self.config.rms_norm_eps,
        })
    }

    fn projection(&self, prefix: &str, spec: ProjectionSpec) -> Result<Projection, LlamaError> {
        let path = format!("{prefix}.{}", spec.path);
        let name = format!("{path}.weight");
        let bias = || {
            spec.bias
                .then(|| self.tensor(&format!("{path}.bias"), [spec.shape[0]]))
                .transpose()
        };
        #[cfg(feature = "qlora")]
        if self.options.weights != Weights::Trainable {
            let linear = match self.quantized(&name, spec.shape)? {
                Some(matrix) => {
                    QLoraLinear::quantized(Nf4Tensor::from_host(&matrix, self.device), bias()?)
                }
                None => QLoraLinear::dense(self.tensor(&name, spec.shape)?, bias()?),
            };
            return Ok(Projection::Frozen(linear));
        }
        Ok(Projection::Dense(Linear {
            // Burn's layer holds [in_features, out_features].
            weight: self.trained(self.tensor(&name, spec.shape)?.transpose()),
            bias: bias()?.map(|bias| self.trained(bias)),
        }))
    }

    #[cfg(feature = "qlora")]
    fn quantized(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<QuantizedMatrix>, LlamaError> {
        match self.options.weights {
            Weights::AsStored => self.checkpoint.read_quantized(name, shape),
            Weights::Quantized(config) => self.checkpoint.quantize(name, shape, config).map(Some),
            Weights::Dense | Weights::Trainable => Ok(None),
        }
    }

    fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, LlamaError> {
        let values = self.checkpoint.read_f32(name, &shape)?;
        Ok(Tensor::from_data(
            TensorData::new(values, shape),
            (self.device, self.options.compute_dtype.dtype()),
        ))
    }

    fn param<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, LlamaError> {
        Ok(self.trained(self.tensor(name, shape)?))
    }

    /// Returns a parameter that wants a gradient when the whole model is to be trained.
    fn trained<const D: usize>(&self, value: Tensor<D>) -> Param<Tensor<D>> {
        Param::initialized(ParamId::new(), value)
            .set_require_grad(self.options.weights == Weights::Trainable)
    }
}
