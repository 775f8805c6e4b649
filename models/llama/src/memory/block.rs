//! One block in its backward pass.

use burn_fused::Implementation;
use burn_qlora::Checkpointing;
use half::{bf16, f16};
use qlora_cpu::Cpu;

use super::{AdaptedBlock, Tensors, Terms};
use crate::ComputeDtype;

impl Terms<'_> {
    /// The widest of the blocks in its backward pass.
    pub(super) fn block(&self) -> Tensors {
        let blocks = self.trained().iter();
        let blocks = blocks.map(|block| self.block_backward(block));
        blocks.fold(Tensors::default(), Tensors::max)
    }

    /// Where the gradient reaches the MLP, or, what the MLP kept being gone, attention.
    fn block_backward(&self, block: &AdaptedBlock) -> Tensors {
        let attention = self.attention_backward(block);
        let working = self
            .mlp_backward()
            .max(attention.without(self.freed_by_mlp()));
        match self.workload.checkpointing {
            Checkpointing::None => working,
            // The block's input is among the activations.
            Checkpointing::Layer => (self.kept(block) + working).without(self.rows(self.hidden())),
        }
    }

    /// What is gone when the gradient reaches attention: what the MLP kept, its norms, and the norm of attention's output.
    fn freed_by_mlp(&self) -> Tensors {
        let after = u128::from(self.config.norm_placement.after());
        self.kept_by_mlp() + (self.norms() + after) * self.rows(self.hidden())
    }

    /// The gradient of the block's output, `[tokens, hidden]`, and, when a block is run again, its output and the product
    /// that hands the gradient in; the gradient of `down`'s input, `[tokens, intermediate]`; and what `down` needs to
    /// compute that, or the gated product's own gradients. Where a norm or a factor follows the MLP, `down` has a gradient
    /// of its own, and what that norm kept is gone.
    fn mlp_backward(&self) -> Tensors {
        let rows = match self.workload.checkpointing {
            Checkpointing::None => 1,
            Checkpointing::Layer => 3,
        };
        let config = self.config;
        let after = config.norm_placement.after();
        let changed = u128::from(after || config.residual_multiplier != 1.0);
        let down = [config.intermediate_size, config.hidden_size];
        let down = changed * self.rows(self.hidden()) + self.product_backward(down);
        let passed = rows * self.rows(self.hidden()) + self.rows(self.inner());
        let freed = u128::from(after) * Tensors::one(self.norm().saved);
        (passed + down.max(self.glu_backward())).without(freed)
    }

    /// The gradients of `gate` and `up`, `[tokens, intermediate]`, of which one has the place of `down`'s input, which
    /// is gone. The CPU's kernel writes them over `gate` and the gradient that came in. Where one matrix gave both, each
    /// of the two is put into a gradient of that matrix's output, `[tokens, 2 · intermediate]`: when the second one is, all
    /// that the product kept is gone.
    fn glu_backward(&self) -> Tensors {
        if self.config.fused_projections {
            return 2 * self.rows(self.inner());
        }
        match self.workload.kernels {
            Implementation::Cpu { .. } => Tensors::default(),
            _ => self.rows(self.inner()) + Tensors::one(self.glu().backward),
        }
    }

    /// The gradient of the residual stream, `[tokens, hidden]`; of attention's output, of `q`, `k` and `v`, and what
    /// computing these needs.
    fn attention_backward(&self, block: &AdaptedBlock) -> Tensors {
        let gradients = 2 * self.rows(self.wide()) + 2 * self.rows(self.narrow());
        let attention = self.attention(block.window);
        self.rows(self.hidden()) + gradients + Tensors::one(attention.backward)
    }

    /// What the gradients of a projection and its adapter need, of the widths `[in, out]`. Burn's own products of dense
    /// projections do not say.
    fn product_backward(&self, [from, to]: [usize; 2]) -> Tensors {
        let rank = self.largest_rank();
        if self.workload.quantization.are_dense() {
            return Tensors::default();
        }
        Tensors::one(match self.workload.kernels {
            Implementation::Cpu { .. } => {
                let dtype = self.workload.compute_dtype;
                let cpu = Cpu::default().with_products(dtype.quantized_products());
                let (m, shape) = (self.tokens as usize, [to, from]);
                let bytes = match dtype {
                    ComputeDtype::F32 => cpu.low_rank_backward_workspace::<f32>(m, shape, rank),
                    ComputeDtype::Bf16 | ComputeDtype::Int8 => {
                        cpu.low_rank_backward_workspace::<bf16>(m, shape, rank)
                    }
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
