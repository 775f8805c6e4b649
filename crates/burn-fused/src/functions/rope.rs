use burn_core::{backend::Dispatch, tensor::Tensor};

use crate::ops::FusedOps;

/// Computes the rotary position embedding of the split-half kind (Hugging Face LLaMA): the pair
/// `(x[i], x[i + head_dim/2])` of every head turns by the angle `i` of its position.
///
/// `x: [batch, seq, heads, head_dim]`; `cos` and `sin`: `[seq, head_dim/2]`, the rows of the
/// positions in `x`, or `[batch · seq, head_dim/2]` where every row of the batch has positions of its
/// own. The tables are constants: no gradient flows to them. The gradient of `x` is
/// the reverse rotation; `x` itself is not kept.
///
/// # Panics
/// When `head_dim` is odd or the tables have neither shape.
pub fn rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [batch, seq, _, head_dim] = x.dims();
    assert!(
        head_dim % 2 == 0,
        "rope: head_dim must be even, it is {head_dim}"
    );
    let shared = [seq, head_dim / 2];
    let own = [batch * seq, head_dim / 2];
    assert!(
        cos.dims() == sin.dims() && [shared, own].contains(&cos.dims()),
        "rope: cos and sin must be [seq, head_dim/2] = {shared:?} or [batch · seq, head_dim/2] = \
         {own:?}, they are {:?} and {:?}",
        cos.dims(),
        sin.dims()
    );
    Tensor::from_dispatch(<Dispatch as FusedOps>::rope(
        x.dequantize().into_dispatch(),
        cos.dequantize().into_dispatch(),
        sin.dequantize().into_dispatch(),
        false,
    ))
}
