//! One block in its backward pass.

use burn_fused::Implementation;
use burn_qlora::Checkpointing;
use half::{bf16, f16};
use qlora_cpu::Cpu;

use super::{Tensors, Terms};
use crate::ComputeDtype;

impl Terms<'_> {
    /// The widest of the blocks, in its backward pass: where the gradient reaches the MLP, or, what the MLP kept
    /// being gone, attention.
    pub(super) fn block(&self) -> Tensors {
        let blocks = self.trained().iter();
        let kept = blocks
            .map(|block| self.kept(block))
            .fold(Tensors::default(), Tensors::max);
        let working = self
            .mlp_backward()
            .max(self.attention_backward().without(self.freed_by_mlp()));
        match self.workload.checkpointing {
            Checkpointing::None => working,
            // The block's input is among the activations.
            Checkpointing::Layer => (kept + working).without(self.rows(self.hidden())),
        }
    }

    /// What is gone when the gradient reaches attention: what the MLP kept, and its norm.
    fn freed_by_mlp(&self) -> Tensors {
        self.kept_by_mlp() + self.rows(self.hidden())
    }

    /// The gradient of the block's output, `[tokens, hidden]`, and, when a block is run again, its output and the product
    /// that hands the gradient in; the gradient of `down`'s input, `[tokens, intermediate]`; and what `down` needs to
    /// compute that, or SwiGLU's own gradients.
    fn mlp_backward(&self) -> Tensors {
        let rows = match self.workload.checkpointing {
            Checkpointing::None => 1,
            Checkpointing::Layer => 3,
        };
        let down = [self.config.intermediate_size, self.config.hidden_size];
        let passed = rows * self.rows(self.hidden()) + self.rows(self.inner());
        passed + self.product_backward(down).max(self.swiglu_backward())
    }

    /// The gradients of `gate` and `up`, `[tokens, intermediate]`, of which one has the place of `down`'s input, which
    /// is gone. The CPU's kernel writes them over `gate` and the gradient that came in.
    fn swiglu_backward(&self) -> Tensors {
        match self.workload.kernels {
            Implementation::Cpu { .. } => Tensors::default(),
            _ => self.rows(self.inner()) + Tensors::one(self.swiglu().backward),
        }
    }

    /// The gradient of the residual stream, `[tokens, hidden]`; of attention's output, of `q`, `k` and `v`, and what
    /// computing these needs.
    fn attention_backward(&self) -> Tensors {
        let gradients = 2 * self.rows(self.wide()) + 2 * self.rows(self.narrow());
        self.rows(self.hidden()) + gradients + Tensors::one(self.attention().backward)
    }

    /// What the gradients of a projection and its adapter need, of the widths `[in, out]`. Burn's own products of dense
    /// projections do not say.
    fn product_backward(&self, [from, to]: [usize; 2]) -> Tensors {
        let rank = self.workload.lora.rank;
        if self.workload.quantization.is_none() {
            return Tensors::default();
        }
        Tensors::one(match self.workload.kernels {
            Implementation::Cpu { .. } => {
                let (cpu, m, shape) = (Cpu::default(), self.tokens as usize, [to, from]);
                let bytes = match self.workload.compute_dtype {
                    ComputeDtype::F32 => cpu.low_rank_backward_workspace::<f32>(m, shape, rank),
                    ComputeDtype::Bf16 => cpu.low_rank_backward_workspace::<bf16>(m, shape, rank),
                    ComputeDtype::F16 => cpu.low_rank_backward_workspace::<f16>(m, shape, rank),
                };
                bytes as u128
            }
            _ => {
                let widths = [from as u128, to as u128];
                burn_nf4::lora_backward_workspace_bytes(self.tokens, widths, rank as u128, self.b)
            }
        })
    }
}
