//! The head's cross-entropy over chunks of tokens, so that only a chunk's logits exist at a time.

use std::ops::Range;

use burn_core::backend::{
    Backend, Slice, TensorMetadata, get_or_init_device_settings,
    tensor::{FloatTensor, IndexingUpdateOp, IntTensor},
};
use burn_core::tensor::{DType, Shape};

use qlora_cpu::cross_entropy::IGNORED;

use super::precision::{cast, widen};
use crate::config::LogitsConfig;
use crate::ops::FusedOps;

/// Returns the losses of rows of logits, which `config` makes of `products`.
pub(crate) fn rows<B: Backend>(
    products: FloatTensor<B>,
    classes: IntTensor<B>,
    weights: FloatTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<B> {
    let logits = logits::<B>(products, config);
    let lse = log_sum_exp::<B>(logits.clone());
    losses::<B>(logits, lse, classes, weights)
}

/// Returns [`rows`], and `weight · (softmax − one-hot of the class)` times the derivative of the logits.
pub(crate) fn rows_grad<B: Backend>(
    products: FloatTensor<B>,
    classes: IntTensor<B>,
    weights: FloatTensor<B>,
    config: LogitsConfig,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let logits = logits::<B>(products, config);
    let lse = log_sum_exp::<B>(logits.clone());
    let losses = losses::<B>(
        logits.clone(),
        lse.clone(),
        classes.clone(),
        weights.clone(),
    );
    let capped = config.softcap.map(|cap| (logits.clone(), cap));
    let p = B::float_exp(B::float_sub(logits, lse));
    let p = B::float_mul(p, weights.clone());
    let hit = B::float_neg(weights);
    let mut gradient = B::float_scatter(1, p, classes, hit, IndexingUpdateOp::Add);
    if let Some((logits, cap)) = capped {
        gradient = B::float_mul(gradient, cap_slope::<B>(logits, cap));
    }
    (losses, scaled::<B>(gradient, config.scale))
}

/// Returns the logits that `config` makes of the products.
fn logits<B: Backend>(products: FloatTensor<B>, config: LogitsConfig) -> FloatTensor<B> {
    match config.softcap {
        Some(cap) => {
            let tanh = B::float_tanh(scaled::<B>(products, config.scale / cap));
            scaled::<B>(tanh, cap)
        }
        None => scaled::<B>(products, config.scale),
    }
}

/// Returns the derivative of the soft cap `c` where its values are `capped`: `1 − (capped / c)²`.
fn cap_slope<B: Backend>(capped: FloatTensor<B>, cap: f64) -> FloatTensor<B> {
    let tanh = scaled::<B>(capped, 1.0 / cap);
    let square = B::float_mul(tanh.clone(), tanh);
    B::float_add_scalar(B::float_neg(square), 1f64.into())
}

/// Returns `factor` times the tensor; nothing is done when that is 1.
fn scaled<B: Backend>(tensor: FloatTensor<B>, factor: f64) -> FloatTensor<B> {
    if factor == 1.0 {
        tensor
    } else {
        B::float_mul_scalar(tensor, factor.into())
    }
}

fn log_sum_exp<B: Backend>(logits: FloatTensor<B>) -> FloatTensor<B> {
    let max = B::float_max_dim(logits.clone(), 1);
    let exp = B::float_exp(B::float_sub(logits, max.clone()));
    B::float_add(B::float_log(B::float_sum_dim(exp, 1)), max)
}

fn losses<B: Backend>(
    logits: FloatTensor<B>,
    lse: FloatTensor<B>,
    classes: IntTensor<B>,
    weights: FloatTensor<B>,
) -> FloatTensor<B> {
    let picked = B::float_gather(1, logits, classes);
    B::float_mul(B::float_sub(lse, picked), weights)
}

/// Logits formed at a time, at least one token's: 64 MiB in f32.
const CHUNK_LOGITS: usize = 1 << 24;

pub(crate) fn loss<B: FusedOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<B> {
    let head = Head::<B>::new(hidden, weight, targets, config);
    head.sum(head.chunks().map(|chunk| chunk.loss()))
}

pub(crate) fn loss_grad_hidden<B: FusedOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (losses, grad, head) = grad_hidden::<B>(hidden, weight, targets, config, Chunk::loss_grad);
    (head.sum(losses.into_iter()), grad)
}

/// Returns what `losses_and_grad` makes of every chunk, the gradient of `hidden`, and the head that both are of.
fn grad_hidden<B: FusedOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    config: LogitsConfig,
    losses_and_grad: impl Fn(Chunk<B>) -> (FloatTensor<B>, FloatTensor<B>),
) -> (Vec<FloatTensor<B>>, FloatTensor<B>, Head<B>) {
    let dtype = hidden.dtype();
    let empty = hidden.clone();
    let head = Head::<B>::new(hidden, weight, targets, config);
    let (losses, grads): (Vec<_>, Vec<_>) = head
        .chunks()
        .map(|chunk| {
            let (losses, dproducts) = losses_and_grad(chunk);
            (losses, head.product(dproducts, head.weight.clone()))
        })
        .unzip();
    let grad = join::<B>(grads).unwrap_or(empty);
    (losses, cast::<B>(grad, dtype), head)
}

pub(crate) fn loss_grads<B: FusedOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (hidden_dtype, weight_dtype) = (hidden.dtype(), weight.dtype());
    let empty = hidden.clone();
    let head = Head::<B>::new(hidden, weight, targets, config);
    let mut dweight = head.no_gradient_of_weight();
    let (mut losses, mut grads) = (Vec::new(), Vec::new());
    for chunk in head.chunks() {
        let hidden = chunk.hidden.clone();
        let (loss, dproducts) = chunk.loss_grad();
        losses.push(loss);
        grads.push(head.product(dproducts.clone(), head.weight.clone()));
        dweight = head.with_chunk(dweight, dproducts, hidden);
    }
    let grad = join::<B>(grads).unwrap_or(empty);
    (
        head.sum(losses.into_iter()),
        cast::<B>(grad, hidden_dtype),
        cast::<B>(dweight, weight_dtype),
    )
}

/// Returns the loss of every token, of which [`loss`] is the sum.
pub(crate) fn token_losses<B: FusedOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<B> {
    let head = Head::<B>::new(hidden, weight, targets, config);
    head.joined(head.chunks().map(|chunk| chunk.losses()).collect())
}

/// Returns [`token_losses`], and in each row the gradient of the token's own loss.
pub(crate) fn token_losses_grad_hidden<B: FusedOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    config: LogitsConfig,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (losses, grad, head) =
        grad_hidden::<B>(hidden, weight, targets, config, Chunk::losses_grad);
    (head.joined(losses), grad)
}

/// Returns the gradient of `weight` from that of every token's loss, `[tokens]`.
pub(crate) fn token_losses_grad_weight<B: FusedOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    grad: FloatTensor<B>,
    config: LogitsConfig,
) -> FloatTensor<B> {
    let dtype = weight.dtype();
    let head = Head::<B>::new(hidden, weight, targets, config);
    let [tokens, _] = head.hidden.shape().dims();
    let grad = cast::<B>(grad, head.hidden.dtype());
    let grad = B::float_reshape(grad, Shape::new([tokens, 1]));
    let mut dweight = head.no_gradient_of_weight();
    for chunk in head.chunks() {
        let (hidden, of_chunk) = (
            chunk.hidden.clone(),
            rows_of::<B>(&grad, chunk.tokens.clone()),
        );
        let (_, dproducts) = chunk.losses_grad();
        let dproducts = B::float_mul(dproducts, of_chunk);
        dweight = head.with_chunk(dweight, dproducts, hidden);
    }
    cast::<B>(dweight, dtype)
}

/// Returns the number of tokens whose logits are formed at a time.
fn tokens_of_a_chunk(vocab: usize) -> usize {
    (CHUNK_LOGITS / vocab.max(1)).max(1)
}

/// Tensors of a chunk's size that [`rows_grad`] makes of its products: the logits, their exponentials, their probabilities
/// and their gradients. A soft cap keeps the logits and drops the exponentials before it makes its own: no more at a time.
pub(crate) const CHUNK_COPIES: u128 = 4;

/// Returns the bytes that the gradients of `(tokens, [vocab, n])` take beside operands and results: of a chunk
/// `chunk_copies` of the logits, [`CHUNK_COPIES`] without a kernel; the gradient of `hidden`, in chunks and joined;
/// `hidden` and `weight` in f32 where they are of less; and for a `tracked` weight its gradient so far, a chunk's part of
/// it and their sum.
pub(crate) fn workspace_bytes(
    (tokens, [vocab, n]): (usize, [usize; 2]),
    tracked: bool,
    element_bytes: usize,
    chunk_copies: u128,
) -> u128 {
    let matrix = |rows: usize, columns: usize| rows as u128 * columns as u128;
    let logits = chunk_copies * matrix(tokens.min(tokens_of_a_chunk(vocab)), vocab);
    let (hidden, weight) = (matrix(tokens, n), matrix(vocab, n));
    let widened = if element_bytes < size_of::<f32>() {
        hidden + weight
    } else {
        0
    };
    let gradients = 2 * hidden + if tracked { 3 * weight } else { 0 };
    (logits + widened + gradients) * size_of::<f32>() as u128
}

/// Returns the bytes of the largest matrix among [`workspace_bytes`]: a chunk's logits, or a copy or gradient of `weight`.
pub(crate) fn largest_bytes(
    (tokens, [vocab, n]): (usize, [usize; 2]),
    tracked: bool,
    element_bytes: usize,
) -> u128 {
    let vocab_rows = |columns: usize| vocab as u128 * columns as u128 * size_of::<f32>() as u128;
    let logits = vocab_rows(tokens.min(tokens_of_a_chunk(vocab)));
    if tracked || element_bytes < size_of::<f32>() {
        logits.max(vocab_rows(n))
    } else {
        logits
    }
}

pub(super) struct Head<B: Backend> {
    hidden: FloatTensor<B>,
    pub weight: FloatTensor<B>,
    /// Rows `[tokens, rank]` and factor `[rank, vocab]` of a product that is added to that of the weight.
    low_rank: Option<[FloatTensor<B>; 2]>,
    targets: IntTensor<B>,
    config: LogitsConfig,
    /// Whether the operands were of the dtype that is computed in.
    single: bool,
}

impl<B: FusedOps> Head<B> {
    pub fn new(
        hidden: FloatTensor<B>,
        weight: FloatTensor<B>,
        targets: IntTensor<B>,
        config: LogitsConfig,
    ) -> Self {
        let dtype = hidden.dtype();
        let hidden = widen::<B>(hidden);
        let weight = cast::<B>(weight, hidden.dtype());
        Self {
            single: hidden.dtype() == dtype,
            hidden,
            weight,
            low_rank: None,
            targets,
            config,
        }
    }

    /// Returns the same with `rows · factor` added to the products.
    pub fn with_low_rank(mut self, low_rank: [FloatTensor<B>; 2]) -> Self {
        let dtype = self.hidden.dtype();
        self.low_rank = Some(low_rank.map(|factor| cast::<B>(factor, dtype)));
        self
    }

    /// Returns `lhs · rhs`, of operands that were f32 or were widened to it.
    pub fn product(&self, lhs: FloatTensor<B>, rhs: FloatTensor<B>) -> FloatTensor<B> {
        if self.single {
            B::matmul(lhs, rhs)
        } else {
            B::widened_matmul(lhs, rhs)
        }
    }

    fn no_gradient_of_weight(&self) -> FloatTensor<B> {
        let weight = &self.weight;
        B::float_zeros(weight.shape(), &weight.device(), weight.dtype().into())
    }

    /// Returns the gradient of the weight so far with that of a chunk.
    fn with_chunk(
        &self,
        dweight: FloatTensor<B>,
        dproducts: FloatTensor<B>,
        hidden: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let part = self.product(B::float_swap_dims(dproducts, 0, 1), hidden);
        B::float_add(dweight, part)
    }

    pub fn chunks(&self) -> impl Iterator<Item = Chunk<B>> {
        let [tokens, n] = self.hidden.shape().dims();
        let [vocab, _] = self.weight.shape().dims();
        let step = tokens_of_a_chunk(vocab);
        (0..tokens).step_by(step).map(move |start| {
            let range = start..(start + step).min(tokens);
            let hidden = B::float_slice(
                self.hidden.clone(),
                &[Slice::from(range.clone()), Slice::from(0..n)],
            );
            let targets = B::int_slice(self.targets.clone(), &[Slice::from(range.clone())]);
            let weight = B::float_swap_dims(self.weight.clone(), 0, 1);
            let mut products = self.product(hidden.clone(), weight);
            if let Some([rows, factor]) = &self.low_rank {
                let rows = rows_of::<B>(rows, range.clone());
                products = B::float_add(products, B::matmul(rows, factor.clone()));
            }
            Chunk {
                tokens: range,
                ..Chunk::new(hidden, products, targets, self.config)
            }
        })
    }

    /// Returns the type of losses: f32 (f64 for f64 operands).
    fn loss_dtype(&self) -> DType {
        match self.hidden.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        }
    }

    /// Returns the losses of all chunks, `[tokens]`.
    pub fn joined(&self, losses: Vec<FloatTensor<B>>) -> FloatTensor<B> {
        let [tokens, _] = self.hidden.shape().dims();
        let (shape, dtype) = (Shape::new([tokens]), self.loss_dtype());
        match join::<B>(losses) {
            Some(losses) => B::float_reshape(cast::<B>(losses, dtype), shape),
            None => B::float_zeros(shape, &self.hidden.device(), dtype.into()),
        }
    }

    /// Returns the losses' sum, `[1]`.
    pub fn sum(&self, losses: impl Iterator<Item = FloatTensor<B>>) -> FloatTensor<B> {
        let dtype = self.loss_dtype();
        losses
            .map(|loss| cast::<B>(loss, dtype))
            .reduce(B::float_add)
            .unwrap_or_else(|| B::float_zeros(Shape::new([1]), &self.hidden.device(), dtype.into()))
    }
}

pub(super) struct Chunk<B: Backend> {
    /// The places of the tokens.
    pub tokens: Range<usize>,
    hidden: FloatTensor<B>,
    /// `hidden · weightᵀ`, `[tokens, vocab]`.
    products: FloatTensor<B>,
    /// `[tokens, 1]`, what is not a class of the vocabulary moved into it.
    classes: IntTensor<B>,
    /// `[tokens, 1]`: 1, 0 where ignored, NaN where the target is not a class.
    weights: FloatTensor<B>,
    config: LogitsConfig,
}

impl<B: FusedOps> Chunk<B> {
    fn new(
        hidden: FloatTensor<B>,
        products: FloatTensor<B>,
        targets: IntTensor<B>,
        config: LogitsConfig,
    ) -> Self {
        let [tokens, vocab] = products.shape().dims();
        let device = hidden.device();
        let bools = get_or_init_device_settings::<B>(&device).bool_dtype;

        let raw = B::int_reshape(targets, Shape::new([tokens, 1]));
        let ignored = B::int_equal_elem(raw.clone(), IGNORED.into(), bools);
        let below = B::int_lower_elem(raw.clone(), 0i64.into(), bools);
        let above = B::int_greater_equal_elem(raw.clone(), (vocab as i64).into(), bools);
        let weights = B::float_ones(Shape::new([tokens, 1]), &device, hidden.dtype().into());
        // A kernel cannot refuse: what is neither a class nor ignored poisons the loss instead of
        // passing for another class.
        let weights = B::float_mask_fill(weights, B::bool_or(below, above), f64::NAN.into());
        let weights = B::float_mask_fill(weights, ignored, 0f64.into());
        Self {
            tokens: 0..tokens,
            hidden,
            products,
            classes: B::int_clamp(raw, 0i64.into(), (vocab as i64 - 1).into()),
            weights,
            config,
        }
    }

    /// Returns the losses, `[tokens, 1]`.
    pub fn losses(self) -> FloatTensor<B> {
        B::cross_entropy(self.products, self.classes, self.weights, self.config)
    }

    /// Returns [`Self::losses`], and the gradient of the products.
    pub fn losses_grad(self) -> (FloatTensor<B>, FloatTensor<B>) {
        B::cross_entropy_grad(self.products, self.classes, self.weights, self.config)
    }

    /// Returns the sum of the losses, `[1]`.
    fn loss(self) -> FloatTensor<B> {
        B::float_sum(self.losses())
    }

    /// Returns [`Self::loss`], and the gradient of the products.
    fn loss_grad(self) -> (FloatTensor<B>, FloatTensor<B>) {
        let (losses, dproducts) = self.losses_grad();
        (B::float_sum(losses), dproducts)
    }
}

/// Returns some rows of a matrix.
pub(super) fn rows_of<B: Backend>(matrix: &FloatTensor<B>, rows: Range<usize>) -> FloatTensor<B> {
    let width = matrix.shape()[1];
    B::float_slice(matrix.clone(), &[Slice::from(rows), Slice::from(0..width)])
}

pub(super) fn join<B: Backend>(mut parts: Vec<FloatTensor<B>>) -> Option<FloatTensor<B>> {
    match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(B::float_cat(parts, 0)),
    }
}
