//! The memory that a training run takes: the model's terms (`burn_qlora_llama::memory`) with the optimizer's and the
//! program's.

use anyhow::Result;
use burn_paged::{Budget, PAGE_BYTES};
use burn_qlora::LoraConfig;
use burn_qlora_llama::LlamaConfig;
use burn_qlora_llama::memory::{Kernels, ModelMemory, Workload};

use crate::allocator;
use crate::opened_model::OpenedModel;
use crate::run::Training;

/// A run and the memory it takes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run.
    pub workload: Workload,
    /// The model's terms.
    pub model: ModelMemory,
    /// The optimizer's state, as far as it stays resident.
    pub optimizer: u64,
    /// Gradients of earlier micro-batches that are held while one goes back.
    pub held: u64,
    /// The program itself, with tokenizer and data, in the memory the model is in; 0 where that is a
    /// device's own.
    pub program: u64,
}

impl Plan {
    /// Plans `training` with the adapters `lora`, rows of up to `longest` tokens, and a program that takes
    /// `program` bytes before anything is loaded.
    ///
    /// # Errors
    /// Targets that the model does not have, a model that cannot be read.
    pub fn new(
        training: &Training,
        opened: &OpenedModel,
        lora: &LoraConfig,
        longest: usize,
        program: Option<u64>,
    ) -> Result<Self> {
        let flex = training.model.device_name.is_flex();
        let workload = Workload {
            batch: training.batch_size(),
            seq: longest,
            quantization: opened.quantization()?,
            compute_dtype: training.model.compute_dtype,
            lora: lora.clone(),
            checkpointing: training.checkpointing,
            kernels: if flex {
                Kernels::Flex
            } else {
                Kernels::Composed
            },
        };
        let program = if flex { program.unwrap_or(0) } else { 0 };
        Self::of(opened.checkpoint.config(), training, workload, program)
    }

    /// Plans `workload` on a model of these dimensions, with the optimizer and the accumulation of `training`.
    ///
    /// # Errors
    /// Targets that the model does not have.
    pub fn of(
        config: &LlamaConfig,
        training: &Training,
        workload: Workload,
        program: u64,
    ) -> Result<Self> {
        let model = config.memory(&workload)?;
        let optimizer = training.optimizer;
        let state = optimizer.kind.state_bytes(model.factors.iter().copied());
        let held = if training.grad_accum() > 1 {
            model.adapters()
        } else {
            0
        };
        Ok(Self {
            optimizer: resident(state, optimizer.placement.budget),
            held,
            workload,
            model,
            program,
        })
    }

    /// Returns the most memory that is taken at once.
    pub fn peak(&self) -> u64 {
        let model = self.model.peak(self.optimizer, self.held);
        model.saturating_add(self.program + self.allocator())
    }

    /// Returns the bytes that the process's allocator holds beside those in use.
    fn allocator(&self) -> u64 {
        let passing = self.model.backward(self.held);
        if self.of_the_process() {
            allocator::holes(passing, self.workload.checkpointing)
        } else {
            0
        }
    }

    /// Returns whether the planned memory is the process's own, so that its resident set can be compared.
    pub fn of_the_process(&self) -> bool {
        self.workload.kernels == Kernels::Flex
    }

    /// Returns the terms with their names. They do not add up to the peak, because they are not all there at once.
    pub fn terms(&self) -> [(&'static str, u64); 10] {
        let model = &self.model;
        [
            ("4-bit weights", model.quantized),
            ("other weights", model.dense),
            ("adapters", model.adapters()),
            ("gradients", model.adapters().saturating_add(self.held)),
            ("optimizer", self.optimizer),
            ("activations", model.activations),
            ("one block", model.block),
            ("head", model.head),
            ("program", self.program),
            ("allocator", self.allocator()),
        ]
    }
}

/// Returns the bytes of an optimizer's `state` that stay resident: all of it, or what the budget allows and the two
/// buffers that the rest passes through.
fn resident(state: u64, budget: Budget) -> u64 {
    let allowed = match budget {
        Budget::Resident | Budget::Auto => state,
        Budget::Bytes(bytes) => bytes,
        Budget::Fraction(share) => (state as f64 * share) as u64,
    };
    state.min(allowed + 2 * PAGE_BYTES as u64)
}

/// The models of the QLoRA paper: LLaMA of 7, 13, 33 and 65 billion parameters (arXiv 2302.13971, table 2).
pub fn paper_models() -> [(&'static str, LlamaConfig); 4] {
    let llama = |hidden: usize, inner, layers, heads| {
        LlamaConfig::new(32_000, hidden, inner, layers, heads, heads, hidden / heads)
    };
    [
        ("7B", llama(4096, 11_008, 32, 32)),
        ("13B", llama(5120, 13_824, 40, 40)),
        ("33B", llama(6656, 17_920, 60, 52)),
        ("65B", llama(8192, 22_016, 80, 64)),
    ]
}
