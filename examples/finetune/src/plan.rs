//! What a training run takes in memory: the model's terms (`burn_qlora_llama::memory`) with the optimizer's and the
//! program's.

use anyhow::Result;
use burn_paged::{Budget, PAGE_BYTES};
use burn_qlora::LoraConfig;
use burn_qlora_llama::LlamaConfig;
use burn_qlora_llama::memory::{Kernels, ModelMemory, Workload};

use crate::allocator;
use crate::cli::TrainArgs;
use crate::session::Session;

/// A run and what it takes.
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
    /// The plan of what `args` ask for, with the adapters `lora`, rows of up to `longest` tokens, and a program
    /// that takes `program` bytes before anything is loaded.
    ///
    /// # Errors
    /// Targets that the model does not have, a format that does not exist, a model that cannot be read.
    pub fn new(
        args: &TrainArgs,
        session: &Session,
        lora: &LoraConfig,
        longest: usize,
        program: Option<u64>,
    ) -> Result<Self> {
        let flex = args.model.device.is_flex();
        let workload = Workload {
            batch: args.batch_size,
            seq: longest,
            quantization: session.quantization(&args.quant)?,
            compute_dtype: args.model.compute_dtype.into(),
            lora: lora.clone(),
            checkpointing: args.checkpointing.into(),
            kernels: if flex {
                Kernels::Flex
            } else {
                Kernels::Composed
            },
        };
        let program = if flex { program.unwrap_or(0) } else { 0 };
        Self::of(session.checkpoint.config(), args, workload, program)
    }

    /// The plan of `workload` on a model of these dimensions, with the optimizer and the accumulation of
    /// `args`.
    ///
    /// # Errors
    /// Targets that the model does not have, a budget for an optimizer that is not paged.
    pub fn of(
        config: &LlamaConfig,
        args: &TrainArgs,
        workload: Workload,
        program: u64,
    ) -> Result<Self> {
        let model = config.memory(&workload)?;
        let state = args
            .optimizer_kind()
            .state_bytes(model.factors.iter().copied());
        let held = match args.grad_accum {
            1 => 0,
            _ => model.adapters(),
        };
        Ok(Self {
            optimizer: resident(state, args.budget()?),
            held,
            workload,
            model,
            program,
        })
    }

    /// The most memory that is taken at once.
    pub fn peak(&self) -> u64 {
        let model = self.model.peak(self.optimizer, self.held);
        model.saturating_add(self.program + self.allocator())
    }

    /// What the process's allocator holds beside what is in use.
    fn allocator(&self) -> u64 {
        let passing = self.model.backward(self.held);
        match self.of_the_process() {
            true => allocator::holes(passing, self.workload.checkpointing),
            false => 0,
        }
    }

    /// Whether the planned memory is the process's own, so that its resident set can be compared.
    pub fn of_the_process(&self) -> bool {
        self.workload.kernels == Kernels::Flex
    }

    /// The terms with their names. They do not add up to the peak, because they are not all there at once.
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

/// What stays of an optimizer's `state`: all of it, or what the budget allows and the two buffers that the rest
/// passes through.
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
