//! The operations that backward passes are made of, and those that no layer asks for, called by themselves: a capture records no
//! backward pass.

use burn::backend::Dispatch;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_fused::{
    Activation, AttentionConfig, AttentionMask, FusedOps, LogitsConfig, RmsNormConfig,
};
use burn_nf4::BlockwiseOps;
use burn_qlora::QuantConfig;

use crate::step::{Case, Named, WIDTH, tensor, weight};

const ROWS: usize = 6;
const RANK: usize = 4;
const CLASSES: usize = 9;

/// The results of all of them, by the operations' names.
pub fn parts(case: Case, device: &Device) -> Named<1> {
    let make = Make { case, device };
    let mut found = make.products();
    found.extend(make.norms_and_gates());
    found.extend(make.attention());
    found.extend(make.heads());
    found.extend(make.adapted_heads());
    found
}

#[derive(Clone, Copy)]
struct Make<'a> {
    case: Case,
    device: &'a Device,
}

impl Make<'_> {
    fn f32<const D: usize>(self, seed: u64, shape: [usize; D]) -> FloatTensor<Dispatch> {
        tensor(seed, shape, self.device).into_dispatch()
    }

    fn float<const D: usize>(self, seed: u64, shape: [usize; D]) -> FloatTensor<Dispatch> {
        let values = tensor(seed, shape, self.device);
        values.cast(self.case.dtype).into_dispatch()
    }

    fn int<const D: usize>(self, values: &[i64], shape: [usize; D]) -> IntTensor<Dispatch> {
        let values = TensorData::new(values.to_vec(), shape);
        Tensor::<D, Int>::from_data(values, self.device).into_dispatch()
    }

    fn products(self) -> Named<1> {
        let square = || self.float(1, [WIDTH, WIDTH]);
        let dense = self.f32(2, [WIDTH, WIDTH]);
        let config = QuantConfig::default();
        let words = <Dispatch as BlockwiseOps>::blockwise_quantize(dense, config);
        let rows = |seed| self.float(seed, [ROWS, WIDTH]);
        let [a, b] = [self.f32(3, [WIDTH, RANK]), self.f32(4, [RANK, WIDTH])];
        let (x, grad) = (rows(5), rows(6));
        let packed = weight(self.device).into_primitive();
        let (dx, da, db) = Dispatch::blockwise_lora_backward(
            x.clone(),
            packed.clone(),
            a.clone(),
            b.clone(),
            2.0,
            grad.clone(),
        );
        let (only_da, only_db) =
            Dispatch::blockwise_lora_backward_factors(x, packed, a, b, 2.0, grad);
        let narrow = |seed| self.f32(seed, [ROWS, ROWS]);
        vec![
            ("quantize", words_of(words.packed)),
            ("quantize", words_of(words.absmax)),
            ("lora_backward", flat::<2>(dx)),
            ("lora_backward", flat::<2>(da)),
            ("lora_backward", flat::<2>(db)),
            ("lora_backward_factors", flat::<2>(only_da)),
            ("lora_backward_factors", flat::<2>(only_db)),
            ("matmul", flat::<2>(Dispatch::matmul(rows(7), square()))),
            (
                "widened_matmul",
                flat::<2>(Dispatch::widened_matmul(narrow(8), narrow(9))),
            ),
        ]
    }

    fn norms_and_gates(self) -> Named<1> {
        let rows = |seed| self.float(seed, [ROWS, WIDTH]);
        let (weight, config) = (|| self.float(10, [WIDTH]), RmsNormConfig::new(1e-5));
        let config = config.with_unit_offset(true);
        let (y, inv_rms) = Dispatch::rms_norm_forward(rows(11), weight(), config);
        let dx = Dispatch::rms_norm_backward(rows(11), weight(), inv_rms.clone(), y, config);
        let dw = Dispatch::rms_norm_backward_weight(rows(11), inv_rms, rows(12));
        let (sum, y, inv_rms) =
            Dispatch::add_rms_norm_forward(rows(11), rows(12), weight(), config);
        let dsum = Dispatch::add_rms_norm_backward(sum, weight(), inv_rms, rows(13), y, config);
        let mut found = vec![
            ("rms_norm_backward", flat::<2>(dx)),
            ("rms_norm_backward_weight", flat::<1>(dw)),
            ("add_rms_norm_backward", flat::<2>(dsum)),
        ];
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (dgate, dup) = Dispatch::glu_backward(rows(14), rows(15), rows(16), activation);
            found.extend([
                ("glu_backward", flat::<2>(dgate)),
                ("glu_backward", flat::<2>(dup)),
            ]);
        }
        found
    }

    fn attention(self) -> Named<1> {
        let heads = |seed| self.float(seed, [1, ROWS, 3, 8]);
        let angles = |seed| self.float(seed, [ROWS, 4]);
        let turned_back = Dispatch::rope(heads(20), angles(21), angles(22), true);
        let mut found = vec![("rope", flat::<4>(turned_back))];
        let config = AttentionConfig::new(0.3);
        for (mask, config) in [
            (AttentionMask::Causal, config.with_softcap(Some(5.0))),
            (
                AttentionMask::Packed {
                    starts: self.int(&[0, 0, 2, 2, 2, 5], [1, ROWS]),
                },
                config.with_window(Some(2)),
            ),
        ] {
            let [q, k, v] = [23, 24, 25].map(heads);
            let (out, lse) = Dispatch::causal_attention_forward(
                q.clone(),
                k.clone(),
                v.clone(),
                mask.clone(),
                config,
            );
            let (dq, dk, dv) =
                Dispatch::causal_attention_backward(q, k, v, mask, out, lse, heads(26), config);
            found.extend([dq, dk, dv].map(|it| ("causal_attention_backward", flat::<4>(it))));
        }
        found
    }

    fn targets(self) -> IntTensor<Dispatch> {
        self.int(&[1, 0, 8, burn_fused::IGNORED, 3, 3], [ROWS])
    }

    fn logits(self) -> LogitsConfig {
        let config = LogitsConfig::default().with_scale(0.1);
        config.with_softcap(self.case.packed.then_some(3.0))
    }

    fn heads(self) -> Named<1> {
        let (hidden, weight) = (
            self.float(30, [ROWS, WIDTH]),
            self.float(31, [CLASSES, WIDTH]),
        );
        let operands = || (hidden.clone(), weight.clone(), self.targets());
        let grad = || self.f32(32, [ROWS]);
        let config = self.logits();
        let (h, w, t) = operands();
        let (loss, dhidden) = Dispatch::linear_cross_entropy_grad_hidden(h, w, t, config);
        let mut found = vec![
            ("linear_cross_entropy_grad_hidden", flat::<1>(loss)),
            ("linear_cross_entropy_grad_hidden", flat::<2>(dhidden)),
        ];
        let (h, w, t) = operands();
        let (loss, dhidden, dweight) = Dispatch::linear_cross_entropy_grads(h, w, t, config);
        found.extend([
            ("linear_cross_entropy_grads", flat::<1>(loss)),
            ("linear_cross_entropy_grads", flat::<2>(dhidden)),
            ("linear_cross_entropy_grads", flat::<2>(dweight)),
        ]);
        let (h, w, t) = operands();
        let (losses, dhidden) = Dispatch::token_cross_entropy_grad_hidden(h, w, t, config);
        let (h, w, t) = operands();
        let dweight = Dispatch::token_cross_entropy_grad_weight(h, w, t, grad(), config);
        found.extend([
            ("token_cross_entropy_grad_hidden", flat::<1>(losses)),
            ("token_cross_entropy_grad_hidden", flat::<2>(dhidden)),
            ("token_cross_entropy_grad_weight", flat::<2>(dweight)),
        ]);
        found
    }

    fn adapted_heads(self) -> Named<1> {
        let operands = || {
            [
                self.float(30, [ROWS, WIDTH]),
                self.float(31, [CLASSES, WIDTH]),
                self.f32(33, [ROWS, RANK]),
                self.f32(34, [RANK, CLASSES]),
            ]
        };
        let (targets, config) = (|| self.targets(), self.logits());
        let [h, w, rows, factor] = operands();
        let (loss, dhidden, drows, dfactor) =
            Dispatch::lora_linear_cross_entropy_grads(h, w, rows, factor, targets(), config);
        let mut found = vec![("lora_linear_cross_entropy_grads", flat::<1>(loss))];
        let gradients = [dhidden, drows, dfactor];
        found.extend(gradients.map(|it| ("lora_linear_cross_entropy_grads", flat::<2>(it))));
        let [h, w, rows, factor] = operands();
        let (losses, dhidden, drows) =
            Dispatch::lora_token_cross_entropy_grad_tokens(h, w, rows, factor, targets(), config);
        let [h, w, rows, factor] = operands();
        let grad = self.f32(32, [ROWS]);
        let dfactor = Dispatch::lora_token_cross_entropy_grad_factor(
            h,
            w,
            rows,
            factor,
            targets(),
            grad,
            config,
        );
        found.extend([
            ("lora_token_cross_entropy_grad_tokens", flat::<1>(losses)),
            ("lora_token_cross_entropy_grad_tokens", flat::<2>(dhidden)),
            ("lora_token_cross_entropy_grad_tokens", flat::<2>(drows)),
            ("lora_token_cross_entropy_grad_factor", flat::<2>(dfactor)),
        ]);
        found
    }
}

/// A result of a dimension that is known, in a row.
fn flat<const D: usize>(result: FloatTensor<Dispatch>) -> Tensor<1> {
    Tensor::<D>::from_dispatch(result).flatten(0, D - 1)
}

/// The bytes of words, which f32 holds without rounding.
fn words_of(words: IntTensor<Dispatch>) -> Tensor<1> {
    let words = Tensor::<1, Int>::from_dispatch(words);
    let bytes = [0, 8, 16, 24].map(|shift| {
        let word = words.clone().bitwise_right_shift_scalar(shift);
        word.bitwise_and_scalar(255).float()
    });
    Tensor::cat(bytes.to_vec(), 0)
}
