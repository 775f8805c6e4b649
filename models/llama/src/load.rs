//! From a checkpoint to a model on a device, one tensor at a time.

use burn::module::{Param, ParamId};
use burn::nn::{Embedding, Linear};
use burn::tensor::{Device, Tensor, TensorData};
#[cfg(feature = "qlora")]
use burn_paged::WeightPages;
#[cfg(feature = "qlora")]
use burn_qlora::{BaseWeight, QLoraLinear};
#[cfg(feature = "qlora")]
use nf4::{Layout, QuantConfig, QuantizedMatrix};

use crate::attention::{Attention, AttentionLayers};
use crate::block::Block;
use crate::checkpoint::Checkpoint;
use crate::config::{DecoderConfig, LayerConfig};
use crate::dtype::{ComputeDtype, KvCacheDtype};
use crate::error::DecoderError;
use crate::mlp::Mlp;
use crate::model::Decoder;
use crate::norm::RmsNorm;
use crate::projection::Projection;
use crate::tensors::{
    EMBEDDING, FINAL_NORM, HEAD, KEY_NORM, ProjectionSpec, QUERY_NORM, block_path,
};

/// Options of [`Decoder::load`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Form of the weights on the device.
    pub weights: Weights,
    /// Dtype that the model computes in and that its dense weights get.
    pub compute_dtype: ComputeDtype,
    /// Dtype that keys and values are kept in while the model generates.
    pub kv_cache_dtype: KvCacheDtype,
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
    /// Frozen; projections in the blocks that the file has them in, 4 bits of bitsandbytes or a block format of GGUF, bit for
    /// bit; those stored in plain numbers are dense.
    #[cfg(feature = "qlora")]
    Kept,
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
            kv_cache_dtype: KvCacheDtype::Auto,
        }
    }

    /// Sets the compute dtype.
    pub fn with_compute_dtype(mut self, dtype: ComputeDtype) -> Self {
        self.compute_dtype = dtype;
        self
    }

    /// Sets the dtype of kept keys and values.
    pub fn with_kv_cache_dtype(mut self, dtype: KvCacheDtype) -> Self {
        self.kv_cache_dtype = dtype;
        self
    }

    /// Makes the process compute in what the model is to compute in, if `device` can.
    fn settle(&self, device: &Device) -> Result<(), DecoderError> {
        self.compute_dtype.settle(device)?;
        self.kv_cache_dtype.check(self.compute_dtype, device)
    }

    /// Returns options with frozen projections in 4 bits.
    #[cfg(feature = "qlora")]
    pub fn quantized(config: QuantConfig) -> Self {
        Self::new(Weights::Quantized(config))
    }
}

impl Decoder {
    /// Reads a model tensor by tensor, quantizing each on the host as it comes.
    ///
    /// Beside the model itself, memory holds one tensor in f32. Tied embeddings are one tensor. With
    /// `device.autodiff()` the model can be trained, or carry adapters that are.
    ///
    /// # Errors
    /// [`DecoderError::ComputeDtype`] and [`DecoderError::KvCacheDtype`] before anything is read, when the device does not have the
    /// dtypes, and [`DecoderError::QuantizedProducts`] when another model of the process computes otherwise; a tensor that is
    /// missing, damaged or of another shape than the configuration asks for; weights that are not finite or already quantized in
    /// another way, where they are to be quantized; a format to be kept that the device has no kernels for.
    pub fn load(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        device: &Device,
    ) -> Result<Self, DecoderError> {
        options.settle(device)?;
        let loader = Loader {
            checkpoint,
            config: checkpoint.config(),
            options,
            device,
            #[cfg(feature = "qlora")]
            pages: None,
        };
        loader.model()
    }

    /// Reads a model as [`load`](Self::load) does, packed weights of projections into `pages` unless their budget lets them stay
    /// on the device. What is not packed is not paged.
    ///
    /// To train it in little memory, use [`Checkpointing::Layer`](burn_qlora::Checkpointing::Layer): a graph of the whole model
    /// holds all the weights that it multiplied by.
    ///
    /// What its files have as it is used is not read before it is used where `pages` are on disk.
    ///
    /// # Errors
    /// Those of [`load`](Self::load), and [`DecoderError::Paging`] when a page cannot be written.
    #[cfg(feature = "qlora")]
    pub fn load_paged(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        device: &Device,
        pages: WeightPages,
    ) -> Result<Self, DecoderError> {
        options.settle(device)?;
        let loader = Loader {
            checkpoint,
            config: checkpoint.config(),
            options,
            device,
            pages: Some(&pages),
        };
        let mut model = loader.model()?;
        model.pages = Some(pages);
        Ok(model)
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a DecoderConfig,
    options: &'a LoadOptions,
    device: &'a Device,
    #[cfg(feature = "qlora")]
    pages: Option<&'a WeightPages>,
}

impl Loader<'_> {
    fn model(&self) -> Result<Decoder, DecoderError> {
        let config = self.config;
        let table = [config.vocab_size, config.hidden_size];
        let embed_tokens = Embedding {
            weight: self.param(EMBEDDING, table)?,
        };
        let layers = config.layers.iter().enumerate();
        let layers = layers
            .map(|(index, layer)| self.block(&block_path(index), layer))
            .collect::<Result<_, _>>()?;
        let norm = self.norm(FINAL_NORM, config.hidden_size)?;
        let lm_head = (!config.tie_word_embeddings)
            .then(|| self.param(HEAD, table))
            .transpose()?;
        let mut model = Decoder::from_parts(config.clone(), embed_tokens, layers, norm, lm_head);
        model.kv_cache_dtype = self.options.kv_cache_dtype;
        Ok(model)
    }

    fn block(&self, prefix: &str, layer: &LayerConfig) -> Result<Block, DecoderError> {
        let config = self.config;
        let (specs, norms) = (config.projections(), config.norms());
        let projection = |spec: &ProjectionSpec| self.projection(prefix, *spec);
        let projections = |specs: &[ProjectionSpec]| -> Result<Vec<_>, DecoderError> {
            specs.iter().map(projection).collect()
        };
        let weight = |path: &str| format!("{prefix}.{path}.weight");
        let norm = |path: Option<&str>| {
            path.map(|path| self.norm(&weight(path), config.hidden_size))
                .transpose()
        };
        let query_key_norms = match config.query_key_norm_widths() {
            Some([query, key]) => Some([
                self.norm(&weight(QUERY_NORM), query)?,
                self.norm(&weight(KEY_NORM), key)?,
            ]),
            None => None,
        };
        let attention = AttentionLayers {
            query_key_value: projections(&specs.query_key_value)?,
            query_key_norms,
            o_proj: projection(&specs.output)?,
        };
        Ok(Block {
            attention_norm: norm(norms.attention)?,
            self_attn: Attention::new(config, layer, attention),
            attention_output_norm: norm(norms.attention_output)?,
            mlp_norm: norm(norms.mlp)?,
            mlp: Mlp::new(
                config,
                projections(&specs.gate_up)?,
                projection(&specs.down)?,
            ),
            mlp_output_norm: norm(norms.mlp_output)?,
            residual_multiplier: config.residual_multiplier,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, DecoderError> {
        Ok(RmsNorm {
            weight: self.param(name, [width])?,
            config: self.config.norm(),
        })
    }

    fn projection(&self, prefix: &str, spec: ProjectionSpec) -> Result<Projection, DecoderError> {
        let path = format!("{prefix}.{}", spec.path);
        let name = format!("{path}.weight");
        let bias = || {
            spec.bias
                .then(|| self.tensor(&format!("{path}.bias"), [spec.shape[0]]))
                .transpose()
        };
        #[cfg(feature = "qlora")]
        if self.options.weights != Weights::Trainable {
            let linear = match self.packed(&name, spec.shape)? {
                Some(weight) => QLoraLinear::on_weight(weight, bias()?),
                None => QLoraLinear::dense(self.tensor(&name, spec.shape)?, bias()?),
            };
            return Ok(Projection::from(linear));
        }
        Ok(Projection::from(Linear {
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
    ) -> Result<Option<QuantizedMatrix>, DecoderError> {
        match self.options.weights {
            Weights::AsStored => self.checkpoint.read_quantized(name, shape),
            Weights::Kept => self.checkpoint.read_blocks(name, shape),
            Weights::Quantized(config) => self.checkpoint.quantize(name, shape, config).map(Some),
            Weights::Dense | Weights::Trainable => Ok(None),
        }
    }

    /// Returns a packed weight where it is to be; `None` of a dense one.
    #[cfg(feature = "qlora")]
    fn packed(&self, name: &str, shape: [usize; 2]) -> Result<Option<BaseWeight>, DecoderError> {
        if let Some(weight) = self.unread(name, shape)? {
            return Ok(Some(weight));
        }
        let Some(matrix) = self.quantized(name, shape)? else {
            return Ok(None);
        };
        Ok(Some(match self.pages {
            Some(pages) if self.stored_layout(name, shape)?.is_none() => {
                BaseWeight::paged(matrix, name, pages, self.device)?
            }
            // Its pages have let it stay.
            _ => BaseWeight::on_device(matrix, self.device),
        }))
    }

    /// Puts a packed weight into a page that is read from its own file; `None` where there are no pages, where they let it stay, and
    /// where it is in another form on disk.
    #[cfg(feature = "qlora")]
    fn unread(&self, name: &str, shape: [usize; 2]) -> Result<Option<BaseWeight>, DecoderError> {
        let (Some(pages), Some(layout)) = (self.pages, self.stored_layout(name, shape)?) else {
            return Ok(None);
        };
        let (checkpoint, stored) = (self.checkpoint.clone(), name.to_owned());
        let source = move || match checkpoint.read_blocks(&stored, shape) {
            Ok(matrix) => matrix.ok_or_else(|| "it is no longer packed".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        Ok(BaseWeight::unread(
            layout,
            name,
            pages,
            source,
            self.device,
        )?)
    }

    /// Returns the layout of a weight that is packed on disk as it is to be on the device.
    #[cfg(feature = "qlora")]
    fn stored_layout(&self, name: &str, shape: [usize; 2]) -> Result<Option<Layout>, DecoderError> {
        match self.options.weights {
            Weights::Kept => self.checkpoint.stored_layout(name, shape),
            Weights::AsStored if self.checkpoint.is_bitsandbytes() => {
                self.checkpoint.stored_layout(name, shape)
            }
            _ => Ok(None),
        }
    }

    fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, DecoderError> {
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
    ) -> Result<Param<Tensor<D>>, DecoderError> {
        Ok(self.trained(self.tensor(name, shape)?))
    }

    /// Returns a parameter that wants a gradient when the whole model is to be trained.
    fn trained<const D: usize>(&self, value: Tensor<D>) -> Param<Tensor<D>> {
        Param::initialized(ParamId::new(), value)
            .set_require_grad(self.options.weights == Weights::Trainable)
    }
}
