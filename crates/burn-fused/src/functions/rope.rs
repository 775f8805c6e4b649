use burn_core::{backend::Dispatch, tensor::Tensor};

use crate::device::expect_served;
use crate::ops::FusedOps;

/// Computes the rotary position embedding of the split-half kind (Hugging Face LLaMA): the pair
/// `(x[i], x[i + n/2])` of every head turns by the angle `i` of its position, and what comes after the first `n`
/// values of a head passes unchanged.
///
/// `x: [batch, seq, heads, head_dim]`; `cos` and `sin`: `[seq, n/2]`, the rows of the
/// positions in `x`, or `[batch · seq, n/2]` where every row of the batch has positions of its
/// own, with `n ≤ head_dim` (`n < head_dim` in Phi). They may carry a factor (YaRN): `cos² + sin²` need not be 1.
/// The tables are constants: no gradient flows to them. The gradient of `x` is
/// the reverse rotation; `x` itself is not kept.
///
/// # Panics
/// When the tables have neither shape, or more than `head_dim/2` columns.
pub fn rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    check("rope", &x, &cos, &sin);
    if cos.dims()[1] == 0 {
        return x;
    }
    expect_served("rope", &x);
    Tensor::from_dispatch(<Dispatch as FusedOps>::rope(
        x.dequantize().into_dispatch(),
        cos.dequantize().into_dispatch(),
        sin.dequantize().into_dispatch(),
        false,
    ))
}

/// Refuses tables that do not fit `x`.
///
/// # Panics
/// As [`rope`] does.
pub(super) fn check(name: &str, x: &Tensor<4>, cos: &Tensor<2>, sin: &Tensor<2>) {
    let [batch, seq, _, head_dim] = x.dims();
    let [rows, pairs] = cos.dims();
    assert!(
        cos.dims() == sin.dims() && [seq, batch * seq].contains(&rows),
        "{name}: cos and sin must be [seq, n/2] = [{seq}, _] or [batch · seq, n/2] = [{}, _], they \
         are {:?} and {:?}",
        batch * seq,
        cos.dims(),
        sin.dims()
    );
    assert!(
        2 * pairs <= head_dim,
        "{name}: cos and sin turn {} values of a head, which has {head_dim}",
        2 * pairs
    );
}
