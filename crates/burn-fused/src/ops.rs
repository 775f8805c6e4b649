use burn_core as burn;
use burn_core::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use nf4::glu::Activation;

use crate::around::ProloguePrimitive;
use crate::config::{AttentionConfig, LogitsConfig, RmsNormConfig};
use crate::operands::{AttentionMask, CachedTokens, Rotation};
use crate::reference;

/// Fused training operations supplied by a backend extension.
///
/// Every operation has a default body composed of the backend's own tensor primitives; a backend
/// overrides the ones it has kernels for. The first method of each group is what
/// [`crate::rms_norm`] and its siblings call, and what `Autodiff` overrides with a hand-written
/// backward pass; the `*_forward` and `*_backward` methods are the parts that pass is made of.
///
/// Shapes are checked by the functions users call, not here. f16 and bf16 operands are computed in
/// f32; a result has its operand's dtype unless its documentation says otherwise.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(any(
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal",
        feature = "webgpu",
        feature = "cuda",
        feature = "rocm",
        feature = "cpu"
    )),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Remote: cfg(feature = "remote"),
    Capture: cfg(feature = "capture"),
    Fusion: cfg(feature = "fusion"),
    Autodiff: cfg(feature = "autodiff"),
)]
pub trait FusedOps: Backend {
    /// Returns `lhs · rhs`, the product of f32 operands in f32: also where the backend's own rounds them to TF32. The rounding
    /// of other dtypes is the backend's.
    ///
    /// `lhs: [m, k]`, `rhs: [k, n]`, of one dtype.
    #[fusion(default)]
    fn matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(lhs, rhs)
    }

    /// Returns `lhs · rhs` of f32 operands that were widened from 16 bits: they lose nothing where the backend rounds to TF32.
    ///
    /// `lhs: [m, k]`, `rhs: [k, n]`.
    #[fusion(default)]
    fn widened_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(lhs, rhs)
    }

    /// Returns [`Self::matmul`] of `x`, which goes through the prologue before, and of a matrix whose rows are the columns of the
    /// result: what goes from one to the other may keep more than the dtype of `x`.
    ///
    /// `x: [m, k]`, `weight: [n, k]`, of one dtype.
    #[fusion(default)]
    fn linear(
        x: FloatTensor<Self>,
        #[extension_type] prologue: ProloguePrimitive<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::matmul(prologue.apply(x), Self::float_transpose(weight))
    }

    /// Returns `x / rms(x) * weight` over the last dimension, `rms(x) = sqrt(mean(x²) + eps)`; the factor is `1 + weight`
    /// where `config` says so, here and in all that follow from it.
    ///
    /// `x: [.., n]`, `weight: [n]`.
    #[fusion(default)]
    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        Self::rms_norm_forward(x, weight, config).0
    }

    /// Returns [`Self::rms_norm`] and `1 / rms(x)`, f32 `[.., 1]`.
    #[fusion(default)]
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::rms_norm::forward::<Self>(x, weight, config)
    }

    /// Returns the gradient of `x` from the operands and results of [`Self::rms_norm_forward`].
    #[fusion(default)]
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        reference::rms_norm::backward::<Self>(x, weight, inv_rms, grad, config)
    }

    /// Returns the gradient of `weight`, `[n]`, in x's dtype.
    #[fusion(default)]
    fn rms_norm_backward_weight(
        x: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::rms_norm::backward_weight::<Self>(x, inv_rms, grad)
    }

    /// Returns the next value of a residual stream, `sum = residual + x`, and [`Self::rms_norm`] of it:
    /// `(sum, normalized)`, both in x's dtype.
    ///
    /// `x` and `residual`: `[.., n]`, of one dtype; `weight: [n]`.
    #[fusion(default)]
    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (sum, y, _) = Self::add_rms_norm_forward(x, residual, weight, config);
        (sum, y)
    }

    /// Returns [`Self::add_rms_norm`] and `1 / rms(sum)`, f32 `[.., 1]`.
    #[fusion(default)]
    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::rms_norm::add_forward::<Self>(x, residual, weight, config)
    }

    /// Returns `x` itself and [`Self::rms_norm`] of it: [`Self::add_rms_norm`] where nothing is to be added.
    #[fusion(default)]
    fn residual_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        (x.clone(), Self::rms_norm(x, weight, config))
    }

    /// Returns the gradient of both `x` and `residual` of [`Self::add_rms_norm`] from those of `sum` and of the
    /// normalized values, `grad`.
    #[fusion(default)]
    fn add_rms_norm_backward(
        sum: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inv_rms: FloatTensor<Self>,
        grad_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: RmsNormConfig,
    ) -> FloatTensor<Self> {
        reference::rms_norm::add_backward::<Self>(sum, weight, inv_rms, grad_sum, grad, config)
    }

    /// Returns `activation(gate) * up`, all of one shape.
    #[fusion(default)]
    fn glu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        reference::glu::forward::<Self>(gate, up, activation)
    }

    /// Returns the gradients of `gate` and `up`, in one pass over memory.
    #[fusion(default)]
    fn glu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::glu::backward::<Self>(gate, up, grad, activation)
    }

    /// Rotates the pairs `(x[i], x[i + n/2])` of every head by the position's angles, backwards if
    /// `inverse`; from `n` on, heads stay as they are.
    ///
    /// `x: [batch, seq, heads, d]`, `cos` and `sin`: `[seq, n/2]`, or `[batch · seq, n/2]` where rows
    /// have positions of their own, `n ≤ d`; constants, of which `cos² + sin²` need not be 1.
    #[fusion(default)]
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        inverse: bool,
    ) -> FloatTensor<Self> {
        reference::rope::rotate::<Self>(x, cos, sin, inverse)
    }

    /// Computes causal grouped-query attention.
    ///
    /// `q: [batch, q_len, heads, d]`, `k` and `v`: `[batch, kv_len, kv_heads, d]`; query `i` sees
    /// the keys `0..=kv_len - q_len + i` that neither `mask` nor the window of `config` hides. A softcap bounds the scores
    /// before that. `k` and `v` may be kept in another dtype than `q`'s, which is that of the result.
    #[fusion(default)]
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> FloatTensor<Self> {
        Self::causal_attention_forward(q, k, v, mask, config).0
    }

    /// Continues rows of which keys and values are kept: rotates `q` and `k`, puts `k` and `v` behind the tokens of `cache`, and
    /// returns the [`Self::causal_attention`] of `q` to all of them, and the cache.
    ///
    /// `q: [batch, q_len, heads, d]`, `k` and `v`: `[batch, q_len, kv_heads, d]`. The tensors of the cache have room for as many
    /// tokens more, and are written in place where nobody else holds them; what they hold in another dtype than `k` and `v` is
    /// rounded to it before it is attended to.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments)]
    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] rotation: Rotation<Self>,
        #[extension_type] cache: CachedTokens<Self>,
        #[extension_type] mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, CachedTokens<Self>) {
        reference::cached_attention::forward::<Self>([q, k, v], rotation, cache, mask, config)
    }

    /// Returns [`Self::causal_attention`] and the log-sum-exp of each row of scores, f32
    /// `[batch, q_len, heads]`.
    #[fusion(default)]
    fn causal_attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] mask: AttentionMask<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::attention::forward::<Self>(q, k, v, mask, config)
    }

    /// Returns the gradients of `q`, `k` and `v`; probabilities are computed again from `lse`.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments)]
    fn causal_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] mask: AttentionMask<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        config: AttentionConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::attention::backward::<Self>([q, k, v, out, lse, grad], mask, config)
    }

    /// Returns the loss of every row of logits, `[tokens, 1]`: `weight · (log Σ exp(logits) − logit of the class)`.
    ///
    /// `products: [tokens, vocab]`, of which `config` makes the logits, `classes: [tokens, 1]`, each below `vocab`,
    /// `weights: [tokens, 1]`. A part of [`Self::linear_cross_entropy`].
    #[fusion(default)]
    fn cross_entropy(
        products: FloatTensor<Self>,
        classes: IntTensor<Self>,
        weights: FloatTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        reference::cross_entropy::rows::<Self>(products, classes, weights, config)
    }

    /// Returns [`Self::cross_entropy`] and the gradient of `products`: `weight · (softmax − one-hot of the class)` times the
    /// derivative of the logits.
    #[fusion(default)]
    fn cross_entropy_grad(
        products: FloatTensor<Self>,
        classes: IntTensor<Self>,
        weights: FloatTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::cross_entropy::rows_grad::<Self>(products, classes, weights, config)
    }

    /// Returns the sum, f32 `[1]`, of the negative log-likelihoods of `targets` under the logits that
    /// `config` makes of `hidden · weightᵀ`, which are never formed whole.
    ///
    /// `hidden: [tokens, n]`, `weight: [vocab, n]`, `targets: [tokens]`; a target of
    /// [`crate::IGNORED`] adds nothing.
    #[fusion(default)]
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        reference::cross_entropy::loss::<Self>(hidden, weight, targets, config)
    }

    /// Returns [`Self::linear_cross_entropy`] and the gradient of `hidden`.
    #[fusion(default)]
    fn linear_cross_entropy_grad_hidden(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::cross_entropy::loss_grad_hidden::<Self>(hidden, weight, targets, config)
    }

    /// Returns the terms of [`Self::linear_cross_entropy`], f32 `[tokens]`: the negative log-likelihood of every target, 0 where
    /// it is [`crate::IGNORED`].
    #[fusion(default)]
    fn token_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        reference::cross_entropy::token_losses::<Self>(hidden, weight, targets, config)
    }

    /// Returns [`Self::token_cross_entropy`] and, in each row of `[tokens, n]`, the gradient of the token's own loss.
    #[fusion(default)]
    fn token_cross_entropy_grad_hidden(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::cross_entropy::token_losses_grad_hidden::<Self>(hidden, weight, targets, config)
    }

    /// Returns the gradient of `weight` from the operands of [`Self::token_cross_entropy`] and the gradient of every loss,
    /// `[tokens]`.
    #[fusion(default)]
    fn token_cross_entropy_grad_weight(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        grad: FloatTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        reference::cross_entropy::token_losses_grad_weight::<Self>(
            hidden, weight, targets, grad, config,
        )
    }

    /// Returns [`Self::linear_cross_entropy`] and the gradients of `hidden` and `weight`.
    #[fusion(default)]
    fn linear_cross_entropy_grads(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::cross_entropy::loss_grads::<Self>(hidden, weight, targets, config)
    }

    /// Returns the sum of [`Self::lora_token_cross_entropy`], `[1]`.
    #[fusion(default)]
    fn lora_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        reference::lora_cross_entropy::loss::<Self>([hidden, weight, rows, factor], targets, config)
    }

    /// Returns [`Self::token_cross_entropy`] under the logits that `config` makes of `hidden · weightᵀ + rows · factor`.
    ///
    /// `rows: [tokens, rank]`, `factor: [rank, vocab]`, in f32 beside operands of f16 and bf16.
    #[fusion(default)]
    fn lora_token_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        reference::lora_cross_entropy::losses::<Self>(
            [hidden, weight, rows, factor],
            targets,
            config,
        )
    }

    /// Returns [`Self::lora_token_cross_entropy`] and the gradients that each token's own loss gives its row of `hidden` and of
    /// `rows`.
    #[fusion(default)]
    fn lora_token_cross_entropy_grad_tokens(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::lora_cross_entropy::grad_tokens::<Self>(
            [hidden, weight, rows, factor],
            targets,
            config,
        )
    }

    /// Returns the gradient of `factor` from the operands of [`Self::lora_token_cross_entropy`] and the gradient of every loss,
    /// `[tokens]`.
    #[fusion(default)]
    fn lora_token_cross_entropy_grad_factor(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        grad: FloatTensor<Self>,
        config: LogitsConfig,
    ) -> FloatTensor<Self> {
        reference::lora_cross_entropy::grad_factor::<Self>(
            [hidden, weight, rows, factor],
            targets,
            grad,
            config,
        )
    }

    /// Returns [`Self::lora_linear_cross_entropy`] and the gradients of `hidden`, `rows` and `factor`.
    #[fusion(default)]
    fn lora_linear_cross_entropy_grads(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        targets: IntTensor<Self>,
        config: LogitsConfig,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        reference::lora_cross_entropy::grads::<Self>(
            [hidden, weight, rows, factor],
            targets,
            config,
        )
    }
}
