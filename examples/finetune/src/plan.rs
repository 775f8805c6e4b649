//! The memory that a training run takes: the model's terms (`burn_qlora_llama::memory`) with the optimizer's and the
//! program's.

use anyhow::{Result, ensure};
use burn_finetune::{Dataset, ExampleKind, Objective, TrainConfig, memory};
use burn_paged::{Budget, PAGE_BYTES, PagedAdamWConfig};
use burn_qlora::{Checkpointing, LoraConfig};
use burn_qlora_llama::memory::{Implementation, ModelMemory, ProjectionFormats, Tensors, Workload};
use burn_qlora_llama::{ComputeDtype, DecoderConfig};

use crate::allocator;
use crate::device::DeviceName;
use crate::flags::Init;
use crate::progress::human_bytes;
use crate::run::Training;

/// The model that a plan is for.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it is called.
    pub name: String,
    /// Its dimensions.
    pub config: DecoderConfig,
    /// The formats of its weights once they are loaded.
    pub quantization: ProjectionFormats,
}

/// The rows that a run is planned over.
#[derive(Clone, Copy, Debug)]
pub struct PlannedRows {
    /// Tokens of the longest, or of the longest sequence where each has a row of a batch to itself.
    pub longest: usize,
    /// Rows of a batch that one of them takes.
    pub width: usize,
    /// Their number, if it is known: a batch has no more.
    pub count: Option<usize>,
    /// The most tokens of a batch, padding left out, if the rows are known and the CPU is given them end to end.
    pub most_tokens: Option<usize>,
}

impl PlannedRows {
    /// Returns the rows of `data` in the order of a run.
    ///
    /// # Errors
    /// Rows that cannot be read.
    pub fn of(data: &Dataset, config: &TrainConfig) -> Result<Self> {
        let is_packed = data.examples() > data.len();
        let (longest, width) = match data.kind()? {
            ExampleKind::Pairs if !is_packed => (data.longest_sequence(), 2),
            _ => (data.longest(), 1),
        };
        Ok(Self {
            longest,
            width,
            count: Some(data.len()),
            most_tokens: (config.neftune_alpha == 0.0)
                .then(|| config.most_tokens(data))
                .transpose()?,
        })
    }

    /// Returns rows of `longest` tokens for an objective, as many as are wanted.
    pub fn as_long_as(longest: usize, objective: &Objective, packing: bool) -> Self {
        let is_pair = objective.examples() == ExampleKind::Pairs && !packing;
        Self {
            longest,
            width: if is_pair { 2 } else { 1 },
            count: None,
            most_tokens: None,
        }
    }
}

/// A run and the memory it takes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run.
    pub workload: Workload,
    /// The model's terms.
    pub model: ModelMemory,
    /// The optimizer's state, as far as it stays resident.
    pub optimizer: u64,
    /// The buffers that the rest of it passes through.
    pub buffers: u64,
    /// Bytes of that rest that come and go in a step.
    pub moved_state: u64,
    /// Floating-point operations of a micro-batch.
    pub operations: u128,
    /// Gradients of earlier micro-batches that are held while one goes back.
    pub held: Tensors,
    /// What setting the adapters needs before training begins, where it does not pass unnoticed and the process has it.
    pub initialization: u64,
    /// The program itself, with tokenizer and data, in the memory the model is in; 0 where that is a
    /// device's own.
    pub program: u64,
}

impl Plan {
    /// Plans `training` with the adapters `lora` over `rows`, and a program that takes `program` bytes before anything is
    /// loaded.
    ///
    /// # Errors
    /// Targets that the model does not have.
    pub fn new(
        training: &Training,
        model: &Planned,
        lora: &LoraConfig,
        rows: PlannedRows,
        program: Option<u64>,
    ) -> Result<Self> {
        let flex = training.model.device_name.is_flex();
        let program = if flex { program.unwrap_or(0) } else { 0 };
        let batch = training.batch_size();
        let batch = batch.min(rows.count.unwrap_or(usize::MAX));
        let batch = batch.saturating_mul(rows.width);
        // Rows that lie end to end take as much as rows of their mean length do side by side.
        let seq = match rows.most_tokens {
            Some(tokens) if flex => rows.longest.min(tokens.div_ceil(batch.max(1))),
            _ => rows.longest,
        };
        let workload = |weights_budget| Workload {
            batch,
            seq,
            quantization: model.quantization.clone(),
            compute_dtype: training.model.compute_dtype,
            lora: lora.clone(),
            checkpointing: training.checkpointing,
            kernels: implementation(flex),
            weights_budget,
        };
        let plan = |budget| Self::of(&model.config, training, workload(budget), program);
        let available = memory::available_bytes().map(|bytes| bytes.saturating_add(program));
        let paging = &training.model.paging;
        plan(paging.decide(available, |budget| Ok(plan(budget)?.peak()))?)
    }

    /// Plans `workload` on a model of these dimensions, with the optimizer and the accumulation of `training`.
    ///
    /// # Errors
    /// Targets that the model does not have.
    pub fn of(
        config: &DecoderConfig,
        training: &Training,
        workload: Workload,
        program: u64,
    ) -> Result<Self> {
        let model = config.memory(&workload)?;
        let optimizer = training.optimizer;
        let factors = model.factors.iter().copied();
        let (state, workspace, moved_state) = match optimizer.kind.moments() {
            Some(moments) => {
                let state = PagedAdamWConfig::new()
                    .with_state(moments)
                    .with_budget(optimizer.placement.budget)
                    .memory(factors.map(|[rows, columns]| rows.saturating_mul(columns)));
                let streamed = state.state.saturating_sub(state.resident);
                (state.resident, state.workspace, streamed.saturating_mul(2))
            }
            None => (optimizer.kind.resident_bytes(factors), 0, 0),
        };
        // A device's pages are allocations of their own.
        let unit = if of_the_process(&workload) {
            1
        } else {
            PAGE_BYTES as u64
        };
        let resident = state.div_ceil(unit).saturating_mul(unit);
        let held = if training.grad_accum() > 1 {
            model.adapters()
        } else {
            Tensors::default()
        };
        let is_fitted = training.init == Init::Loftq && of_the_process(&workload);
        Ok(Self {
            initialization: if is_fitted { model.fitting } else { 0 },
            optimizer: resident,
            buffers: workspace,
            moved_state,
            operations: config.operations(&workload)?,
            held,
            workload,
            model,
            program,
        })
    }

    /// Checks that the run fits into a machine of `total` bytes of memory and swap, if they are known, as far as it is the
    /// process that takes them. An allocation that fails would end the program, or the system would.
    ///
    /// # Errors
    /// A peak beyond that.
    pub fn check(&self, total: Option<u64>) -> Result<()> {
        if self.of_the_process()
            && let Some(total) = total
        {
            ensure!(
                self.peak() <= total,
                "the run would take {} of memory, {} of it for adapters of rank {}, and this machine has {} with its \
                 swap; lower --rank, --batch-size or --seq-len, use --checkpointing layer, or look at `finetune plan`",
                human_bytes(self.peak()),
                human_bytes(self.model.adapters().bytes()),
                self.workload.lora.rank,
                human_bytes(total)
            );
        }
        Ok(())
    }

    /// Returns the most memory that is taken at once.
    pub fn peak(&self) -> u64 {
        if self.of_the_process() {
            let training = self.taken().saturating_add(self.allocator());
            training.max(self.starting())
        } else {
            // What is converted while it is loaded is on the host.
            self.reserved()
        }
    }

    /// Returns the bytes that are in use while the adapters are set.
    fn starting(&self) -> u64 {
        let model = &self.model;
        let lasting = (model.quantized + model.dense + model.adapters()).bytes();
        let lasting = lasting.saturating_add(self.program);
        lasting.saturating_add(self.initialization)
    }

    /// Returns the most bytes that are in use at once in loading and training.
    fn taken(&self) -> u64 {
        let model = self.model.peak(self.state(), self.held);
        model.saturating_add(self.program)
    }

    /// Returns the optimizer's state and buffers.
    fn state(&self) -> u64 {
        self.optimizer.saturating_add(self.buffers)
    }

    /// Returns the bytes that the allocator holds beside those in use: holes in the process's memory, or what is free of a
    /// device's pages.
    fn allocator(&self) -> u64 {
        if self.of_the_process() {
            let passing = self.model.backward(self.held);
            allocator::holes(passing, self.workload.checkpointing)
        } else {
            self.reserved().saturating_sub(self.taken())
        }
    }

    /// Returns the bytes that a device's allocator reserves: pages for tensors and buffers, the optimizer's resident pages,
    /// and, if others pass, what one of them is read back through.
    fn reserved(&self) -> u64 {
        let transfer = self.buffers.min(PAGE_BYTES as u64);
        let pages = self.model.reserved(self.buffers, self.held);
        pages
            .saturating_add(self.optimizer)
            .saturating_add(transfer)
    }

    /// Returns whether the planned memory is the process's own, so that its resident set can be compared.
    pub fn of_the_process(&self) -> bool {
        of_the_process(&self.workload)
    }

    /// Returns the terms with their names. They do not add up to the peak, because they are not all there at once.
    pub fn terms(&self) -> [(&'static str, u64); 10] {
        let model = &self.model;
        let quantized = match self.workload.quantization {
            ProjectionFormats::Stored(_) => "kept weights",
            _ => "4-bit weights",
        };
        [
            (quantized, model.quantized.bytes()),
            ("other weights", model.dense.bytes()),
            ("adapters", model.adapters().bytes()),
            ("gradients", (model.adapters() + self.held).bytes()),
            ("optimizer", self.state()),
            ("activations", model.activations.bytes()),
            ("one block", model.block.bytes()),
            ("head", model.head.bytes()),
            ("program", self.program),
            ("allocator", self.allocator()),
        ]
    }
}

/// Returns what a step on one short row takes on a model in `compute_dtype`, which is more than asking it does.
///
/// # Errors
/// A model without layers to adapt.
pub fn asking_peak(
    model: &Planned,
    device: DeviceName,
    compute_dtype: ComputeDtype,
    weights_budget: Budget,
) -> Result<u64> {
    let workload = Workload {
        batch: 1,
        seq: ASKED.min(model.config.context_len()),
        quantization: model.quantization.clone(),
        compute_dtype,
        lora: LoraConfig::new(8, 8.0),
        checkpointing: Checkpointing::Layer,
        kernels: implementation(device.is_flex()),
        weights_budget,
    };
    Ok(model.config.memory(&workload)?.peak(0, Tensors::default()))
}

/// Tokens of a row that is short.
const ASKED: usize = 1024;

fn implementation(flex: bool) -> Implementation {
    if flex {
        Implementation::on_flex()
    } else {
        Implementation::on_cubecl()
    }
}

/// Returns whether it is the process that has the memory.
fn of_the_process(workload: &Workload) -> bool {
    matches!(workload.kernels, Implementation::Cpu { .. })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::flags::{Cli, Command};
    use crate::known_models;
    use crate::run::{Adapter, PlanRun};
    use clap::Parser;

    #[test]
    fn a_run_beyond_all_memory_is_refused() {
        let plan = |flags: &[&str]| {
            let line = [&["finetune", "plan", "--like", "llama-7b"], flags].concat();
            let Command::Plan(flags) = Cli::parse_from(line).command else {
                panic!("not a plan");
            };
            let run = PlanRun::resolve(*flags).unwrap();
            let model = Planned {
                name: "llama-7b".into(),
                config: known_models::config("llama-7b").unwrap(),
                quantization: ProjectionFormats::Dense,
            };
            let rows = PlannedRows {
                longest: 512,
                width: 1,
                count: Some(100),
                most_tokens: None,
            };
            let Adapter::Fresh(lora) = &run.training.adapter else {
                panic!("not fresh");
            };
            Plan::new(&run.training, &model, lora, rows, None).unwrap()
        };
        let usual = plan(&[]);
        usual.check(Some(usual.peak())).unwrap();
        usual.check(None).unwrap();
        let error = plan(&["--rank", "1048576"])
            .check(Some(1 << 40))
            .unwrap_err();
        assert!(error.to_string().contains("rank 1048576"), "{error}");
        // A batch has no more rows than there are.
        let peaks = ["100", "1000000"].map(|rows| plan(&["--batch-size", rows]).peak());
        assert_eq!(peaks[0], peaks[1]);
    }
}
