//! LLaMA as burn-finetune wants it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_finetune::{Batch, CausalLm};
use burn_qlora::{BackwardPass, LoraBranch, LoraModel, LossAndGradients, QLoraLinear};
use burn_qlora_llama::Llama;

/// A LLaMA with adapters, to be trained.
///
/// Neither burn-finetune nor burn-qlora-llama knows the other; this is where they meet.
#[derive(Module, Debug)]
pub struct LlamaLm {
    /// The model itself.
    pub llama: Llama,
}

impl LoraModel for LlamaLm {
    fn lora_linears(&self) -> Vec<(String, &QLoraLinear)> {
        self.llama.lora_linears()
    }

    fn lora_linears_mut(&mut self) -> Vec<(String, &mut QLoraLinear)> {
        self.llama.lora_linears_mut()
    }
}

impl CausalLm for LlamaLm {
    const LAYER_CHECKPOINTING: bool = true;
    const PACKING: bool = true;

    fn loss_sum(&self, batch: &Batch) -> Tensor<1> {
        let Batch {
            input_ids,
            starts,
            targets,
            ..
        } = batch.clone();
        self.llama.loss_sum(input_ids, starts, targets)
    }

    fn loss_and_gradients(&self, batch: &Batch, pass: &BackwardPass) -> LossAndGradients {
        let Batch {
            input_ids,
            starts,
            targets,
            ..
        } = batch.clone();
        self.llama
            .loss_and_gradients(input_ids, starts, targets, pass)
    }

    fn device(&self) -> Device {
        self.llama.device()
    }

    fn context_len(&self) -> usize {
        self.llama.config().max_position_embeddings
    }
}

impl LlamaLm {
    /// Number of parameters in the adapters.
    pub fn adapter_parameters(&self) -> usize {
        self.lora_linears()
            .into_iter()
            .filter_map(|(_, linear)| linear.adapter.as_ref())
            .map(LoraBranch::num_params)
            .sum()
    }
}
