//! What a window hides is not computed. A NaN there would come out of every sum that it is added to, be it with a
//! probability of 0; the default body's sums, too, so that this is also seen to run a kernel.

use burn_core::tensor::Tensor;
use burn_fused::{AttentionConfig, causal_attention};

use crate::common::{assert_close, devices_with_kernels, leaf, loss, tensor};

const LEN: usize = 400;
const WINDOW: usize = 8;
/// Further from the first keys than any kernel's tile reaches.
const FAR: usize = 300;

/// Returns the output, and the gradients of `q`, `k` and `v`, of the positions from `FAR` on.
fn far_from_the_first(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> [Tensor<4>; 4] {
    let config = AttentionConfig::new(0.5).with_window(Some(WINDOW));
    let out = causal_attention(q.clone(), k.clone(), v.clone(), config);
    let grads = loss(out.clone()).backward();
    let [dq, dk, dv] = [q, k, v].map(|x| x.grad(&grads).unwrap());
    [out, dq, dk, dv].map(|x| x.narrow(1, FAR, LEN - FAR))
}

#[test]
fn what_a_window_hides_may_be_nan() {
    for device in devices_with_kernels() {
        let device = device.autodiff();
        let q = || leaf(1, [2, LEN, 4, 16], &device);
        let clean = |seed| tensor::<4>(seed, [2, LEN, 2, 16], &device);
        let spoiled = |seed| {
            let rest = clean(seed).narrow(1, 3, LEN - 3);
            let nan = Tensor::full([2, 3, 2, 16], f32::NAN, &device);
            Tensor::cat(vec![nan, rest], 1).require_grad()
        };
        let actual = far_from_the_first(q(), spoiled(2), spoiled(3));
        let [k, v] = [2, 3].map(|seed| clean(seed).require_grad());
        let expected = far_from_the_first(q(), k, v);
        for ((name, a), e) in ["out", "dq", "dk", "dv"].iter().zip(actual).zip(expected) {
            assert_close(name, a, e);
        }
    }
}
