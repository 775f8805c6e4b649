//! The model: embedding, blocks, final norm and head.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_fused::{LogitsConfig, Prologue};

use crate::block::Block;
use crate::cache::KvCache;
use crate::config::DecoderConfig;
use crate::dtype::KvCacheDtype;
use crate::error::DecoderError;
use crate::norm::RmsNorm;
use crate::residual::Residual;
use crate::rope::{Positions, Rope};

/// A causal language model of the LLaMA family.
///
/// Rows shorter than the batch are padded on the right with any token; attention is causal, so no mask is
/// needed (see [`Attention`](crate::Attention)).
#[derive(Module, Debug)]
#[cfg_attr(feature = "qlora", derive(burn_qlora::LoraLayers))]
pub struct Decoder {
    /// `[vocab, hidden]`; also the head when the embeddings are tied.
    pub embed_tokens: Embedding,
    /// The decoder blocks.
    #[cfg_attr(feature = "qlora", lora(name = "model.layers"))]
    pub layers: Vec<Block>,
    /// The final norm.
    pub norm: RmsNorm,
    /// The head, `[vocab, hidden]`; `None` when it is the embedding.
    pub lm_head: Option<Param<Tensor<2>>>,
    /// The adapter of the head.
    #[cfg(feature = "qlora")]
    pub(crate) head_adapter: Option<burn_qlora::LoraBranch>,
    /// Rows of the embedding, and of a head that is the embedding, that are trained.
    #[cfg(feature = "qlora")]
    pub(crate) embedding_rows: Option<burn_qlora::TokenRows>,
    /// Rows of the head that are trained.
    #[cfg(feature = "qlora")]
    pub(crate) head_rows: Option<burn_qlora::TokenRows>,
    /// The pages that weights of the projections are in.
    #[cfg(feature = "qlora")]
    #[module(skip)]
    pub(crate) pages: Option<burn_paged::WeightPages>,
    #[module(skip)]
    pub(crate) kv_cache_dtype: KvCacheDtype,
    #[module(skip)]
    config: Arc<DecoderConfig>,
    #[module(skip)]
    rope: Arc<Rope>,
}

impl DecoderConfig {
    /// Initializes a dense model with random weights in the device's default dtype: N(0, 0.02), factors of norms one, biases zero.
    ///
    /// # Errors
    /// The errors of [`DecoderConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<Decoder, DecoderError> {
        self.validate("DecoderConfig".as_ref())?;
        let initializer = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        let shape = [self.vocab_size, self.hidden_size];
        let embed_tokens = EmbeddingConfig::new(self.vocab_size, self.hidden_size)
            .with_initializer(initializer.clone())
            .init(device);
        let lm_head = (!self.tie_word_embeddings).then(|| initializer.init(shape, device));
        Ok(Decoder::from_parts(
            self.clone(),
            embed_tokens,
            self.layers
                .iter()
                .map(|layer| Block::init(self, layer, device))
                .collect(),
            RmsNorm::init(self.hidden_size, self.norm(), device),
            lm_head,
        ))
    }

    /// Returns what becomes of the head's products.
    pub(crate) fn logits(&self) -> LogitsConfig {
        LogitsConfig::default()
            .with_scale(self.logits_scale)
            .with_softcap(self.logits_softcap)
    }
}

impl KvCache {
    /// Returns an empty cache for `batch` rows of up to `capacity` tokens, on the model's device and in the dtype that it was
    /// [loaded](crate::LoadOptions::kv_cache_dtype) to keep them in. It takes memory for the tokens that come, not for the capacity.
    pub fn new(model: &Decoder, batch: usize, capacity: usize) -> Self {
        Self::padded(model, vec![0; batch], capacity)
    }

    /// Returns an empty cache, as [`new`](Self::new) does, for rows whose next tokens are as many as `lengths` says: what is
    /// given first is padded on the left to the longest. The capacity counts padding as well.
    pub fn of_lengths(model: &Decoder, lengths: &[usize], capacity: usize) -> Self {
        let longest = lengths.iter().max().copied().unwrap_or(0);
        let padding = lengths.iter().map(|length| longest - length);
        Self::padded(model, padding.collect(), capacity)
    }

    fn padded(model: &Decoder, padding: Vec<usize>, capacity: usize) -> Self {
        let config = model.config();
        let rows = padding.len();
        let shape = [rows, capacity, config.num_key_value_heads, config.head_dim];
        let device = model.device().without_autodiff();
        let dtype = model.kv_cache_dtype.dtype(model.dtype());
        Self::empty(config.layers.len(), shape, padding, &device, dtype)
    }
}

impl Decoder {
    pub(crate) fn from_parts(
        config: DecoderConfig,
        embed_tokens: Embedding,
        layers: Vec<Block>,
        norm: RmsNorm,
        lm_head: Option<Param<Tensor<2>>>,
    ) -> Self {
        let rope = Rope::new(&config);
        Self {
            embed_tokens,
            layers,
            norm,
            lm_head,
            #[cfg(feature = "qlora")]
            head_adapter: None,
            #[cfg(feature = "qlora")]
            embedding_rows: None,
            #[cfg(feature = "qlora")]
            head_rows: None,
            #[cfg(feature = "qlora")]
            pages: None,
            kv_cache_dtype: KvCacheDtype::default(),
            config: Arc::new(config),
            rope: Arc::new(rope),
        }
    }

    /// Returns the model's dimensions.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Returns the device of the embedding.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.lazy_device()
    }

    /// Returns the dtype the model computes in, which is that of the embedding.
    pub fn dtype(&self) -> DType {
        self.embed_tokens.weight.val().dtype()
    }

    /// Returns the head's matrix, `[vocab, hidden]`.
    pub fn head(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.val(),
            None => self.embed_tokens.weight.val(),
        }
    }

    /// Maps `input_ids: [batch, seq]` to logits `[batch, seq, vocab]`, in the model's dtype.
    ///
    /// # Panics
    /// As Burn's embedding does, on ids outside the vocabulary.
    pub fn forward(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        let hidden = self.forward_hidden(input_ids);
        let [batch, seq, width] = hidden.dims();
        let logits = self.logits(hidden.reshape([batch * seq, width]));
        logits.reshape([batch, seq, self.config.vocab_size])
    }

    /// Maps `input_ids: [batch, seq]` to the normalized last hidden states `[batch, seq, hidden]`, which the
    /// head turns into logits.
    pub fn forward_hidden(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.norm.forward_residual(self.residual(input_ids, None)).1
    }

    /// Maps `input_ids: [batch, seq]` to the last block's output.
    fn residual(&self, input_ids: Tensor<2, Int>, starts: Option<Tensor<2, Int>>) -> Residual {
        let positions = self.positions(&input_ids, starts);
        let x = self.embed(input_ids);
        #[cfg(feature = "qlora")]
        self.announce(&self.layers);
        self.layers
            .iter()
            .fold(x.into(), |x, layer| layer.forward(x, &positions, None))
    }

    /// Maps `input_ids: [batch, seq]` to the residual stream before the first block, `[batch, seq, hidden]`.
    pub(crate) fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        let x = self.embed_tokens.forward(input_ids.clone());
        #[cfg(feature = "qlora")]
        let x = self.with_embedding_gradient(x, input_ids);
        self.scale_embeddings(x)
    }

    /// Maps tokens that the host knows, `[rows, seq]` in a row, as [`embed`](Self::embed) does, without the gradients. One alone is
    /// its row of the table where it lies, if the device can bind it there.
    pub(crate) fn embed_known(&self, tokens: &[u32], shape: [usize; 2]) -> Tensor<3> {
        let x = match tokens {
            [token] => {
                let row = *token as usize;
                let table = self.embed_tokens.weight.val();
                table
                    .slice([row..row + 1, 0..self.config.hidden_size])
                    .unsqueeze()
            }
            tokens => {
                let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
                let ids = TensorData::new(ids, shape);
                self.embed_tokens
                    .forward(Tensor::from_data(ids, &self.device()))
            }
        };
        self.scale_embeddings(x)
    }

    /// Multiplies embeddings by their factor, which is rounded to the model's dtype, as Gemma's is in transformers.
    fn scale_embeddings(&self, x: Tensor<3>) -> Tensor<3> {
        if self.config.embedding_multiplier == 1.0 {
            return x;
        }
        x * self.config.embedding_multiplier
    }

    /// Returns the rotations of the model's positions.
    pub fn rope(&self) -> &Rope {
        &self.rope
    }

    /// Returns the positions of `input_ids: [batch, seq]` in their sequences.
    pub(crate) fn positions(
        &self,
        input_ids: &Tensor<2, Int>,
        starts: Option<Tensor<2, Int>>,
    ) -> Positions {
        match starts {
            Some(starts) => self.rope.packed_positions(starts),
            None => self
                .rope
                .positions(0, input_ids.dims()[1], &input_ids.device()),
        }
    }

    /// Returns the residual stream after the embedding and after each block, each `[batch, seq, hidden]`; the last
    /// one is normalized, as transformers' `output_hidden_states` has it.
    pub fn hidden_states(&self, input_ids: Tensor<2, Int>) -> Vec<Tensor<3>> {
        let positions = self.positions(&input_ids, None);
        let x = self.embed(input_ids);
        #[cfg(feature = "qlora")]
        self.announce(&self.layers);
        let mut states = vec![x];
        for layer in &self.layers {
            let x = states[states.len() - 1].clone();
            states.push(layer.forward(x.into(), &positions, None).sum());
        }
        let last = states.pop().map(|x| self.norm.forward(x));
        states.extend(last);
        states
    }

    /// Returns the sum over all target tokens of their negative log-likelihoods, `[1]`, f32.
    ///
    /// `input_ids` and `targets` are `[batch, seq]`; `targets[b, t]` is the token that should follow
    /// `input_ids[b, t]`, or -100 where nothing is asked. The logits are never formed as a whole.
    ///
    /// Where rows hold several sequences, `starts: [batch, seq]` has the place in its row at which the sequence of
    /// each token begins: a token sees nothing before it and has its position from there.
    pub fn nll_sum(
        &self,
        input_ids: Tensor<2, Int>,
        starts: Option<Tensor<2, Int>>,
        targets: Tensor<2, Int>,
    ) -> Tensor<1> {
        self.head_nll_sum(self.residual(input_ids, starts), targets)
    }

    /// Returns the negative log-likelihood of each of `targets`, 0 where nothing is asked: `[batch, seq]`, f32. The operands are
    /// those of [`nll_sum`](Self::nll_sum), which is the sum.
    pub fn token_nll(
        &self,
        input_ids: Tensor<2, Int>,
        starts: Option<Tensor<2, Int>>,
        targets: Tensor<2, Int>,
    ) -> Tensor<2> {
        self.head_token_nll(self.residual(input_ids, starts), targets)
    }

    /// Returns the sum of the negative log-likelihoods of `targets: [batch, seq]`, given the last block's output.
    pub(crate) fn head_nll_sum(&self, x: Residual, targets: Tensor<2, Int>) -> Tensor<1> {
        let (hidden, targets) = self.head_operands(x, targets);
        let logits = self.config.logits();
        #[cfg(feature = "qlora")]
        if let Some(losses) = self.losses_with_rows(&hidden, &targets, logits) {
            return losses.sum();
        }
        #[cfg(feature = "qlora")]
        if let Some(branch) = &self.head_adapter {
            let low_rank = factors(branch, &hidden);
            let head = self.head();
            return burn_fused::lora_linear_cross_entropy(hidden, head, low_rank, targets, logits);
        }
        burn_fused::linear_cross_entropy(hidden, self.head(), targets, logits)
    }

    /// Returns the negative log-likelihood of each of `targets: [batch, seq]`, given the last block's output.
    pub(crate) fn head_token_nll(&self, x: Residual, targets: Tensor<2, Int>) -> Tensor<2> {
        let dims = targets.dims();
        let (hidden, targets) = self.head_operands(x, targets);
        let logits = self.config.logits();
        #[cfg(feature = "qlora")]
        if let Some(losses) = self.losses_with_rows(&hidden, &targets, logits) {
            return losses.reshape(dims);
        }
        #[cfg(feature = "qlora")]
        if let Some(branch) = &self.head_adapter {
            let (low_rank, head) = (factors(branch, &hidden), self.head());
            let losses =
                burn_fused::lora_token_cross_entropy(hidden, head, low_rank, targets, logits);
            return losses.reshape(dims);
        }
        burn_fused::token_cross_entropy(hidden, self.head(), targets, logits).reshape(dims)
    }

    /// Returns the normalized hidden states, `[batch · seq, hidden]`, and the targets, `[batch · seq]`.
    fn head_operands(&self, x: Residual, targets: Tensor<2, Int>) -> (Tensor<2>, Tensor<1, Int>) {
        let (_, hidden) = self.norm.forward_residual(x);
        let [batch, seq, width] = hidden.dims();
        let hidden = hidden.reshape([batch * seq, width]);
        (hidden, targets.reshape([batch * seq]))
    }

    /// Continues the rows in `cache` by `input_ids: [batch, seq]` and returns the logits that follow the last
    /// of them, `[batch, vocab]`. To be called on a model without autodiff.
    ///
    /// # Errors
    /// [`DecoderError::ContextLength`] when the cache is full, [`DecoderError::OutdatedCache`] where the tokens in it
    /// [would rotate otherwise](Rope::outdates) in a row of the new length, [`DecoderError::Paging`] where a weight could not be
    /// read.
    pub fn forward_cached(
        &self,
        input_ids: Tensor<2, Int>,
        cache: &mut KvCache,
    ) -> Result<Tensor<2>, DecoderError> {
        burn_fused::on_kernel_thread(&self.device(), || {
            let states = self.last_states(self.embed(input_ids), 1, cache)?;
            Ok(self.logits_of_states(states))
        })
    }

    /// Continues the rows in `cache` by the embeddings `x: [batch, seq, hidden]` of their next tokens and returns the last block's
    /// output for the last `count` of each, `[batch · count, hidden]`.
    pub(crate) fn last_states(
        &self,
        x: Tensor<3>,
        count: usize,
        cache: &mut KvCache,
    ) -> Result<Tensor<2>, DecoderError> {
        let [batch, seq, width] = x.dims();
        let x = self.continue_rows(x, cache)?;
        #[cfg(feature = "qlora")]
        self.check_weights()?;
        // Only the last positions are asked for; the head is the widest layer by far.
        let last = x.slice([0..batch, seq - count..seq, 0..width]);
        Ok(last.reshape([batch * count, width]))
    }

    /// Continues the rows in `cache` by the embeddings `x: [batch, seq, hidden]` of their next tokens and returns the last block's
    /// output, of the same shape.
    pub(crate) fn continue_rows(
        &self,
        x: Tensor<3>,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>, DecoderError> {
        let [_, seq, _] = x.dims();
        let positions = cache.next_positions(&self.rope, seq, &x.device())?;
        cache.reserve(seq)?;
        #[cfg(feature = "qlora")]
        self.announce(&self.layers);
        let layers = self.layers.iter().enumerate();
        let x = layers.fold(x.into(), |x: Residual, (index, layer)| {
            layer.forward(x, &positions, Some(cache.layer(index)))
        });
        Ok(x.sum())
    }

    /// Maps the last block's output for some tokens, `[tokens, hidden]`, to logits, `[tokens, vocab]`.
    pub(crate) fn logits_of_states(&self, states: Tensor<2>) -> Tensor<2> {
        #[cfg(feature = "qlora")]
        if self.head_adapter.is_some() {
            return self.logits(self.norm.forward(states));
        }
        let products = burn_fused::linear(states, self.norm.prologue(), self.head());
        self.config.logits().apply(products)
    }

    /// Maps normalized hidden states, `[tokens, hidden]`, to logits, `[tokens, vocab]`.
    pub(crate) fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let products = burn_fused::linear(hidden.clone(), Prologue::None, self.head());
        #[cfg(feature = "qlora")]
        let products = match &self.head_adapter {
            Some(branch) => products + branch.forward(hidden),
            None => products,
        };
        self.config.logits().apply(products)
    }

    /// Maps normalized hidden states, `[tokens, hidden]`, to the logits of some tokens of the vocabulary, `[tokens, places]`, without an
    /// adapter of the head.
    pub(crate) fn logits_of(&self, hidden: Tensor<2>, places: Tensor<1, Int>) -> Tensor<2> {
        let head = self.head().select(0, places);
        let products = burn_fused::matmul(hidden, head.transpose());
        self.config.logits().apply(products)
    }
}

/// Returns the factors of what an adapter of the head adds to its products with `hidden: [tokens, hidden]`: `[tokens, rank]` and
/// `[rank, vocab]`.
#[cfg(feature = "qlora")]
fn factors(branch: &burn_qlora::LoraBranch, hidden: &Tensor<2>) -> [Tensor<2>; 2] {
    [branch.inner(hidden.clone()), branch.lora.b.val()]
}
