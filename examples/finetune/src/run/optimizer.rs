use std::path::PathBuf;

use anyhow::{Result, bail};
use burn_finetune::{OptimizerKind, TrainConfig};
use burn_paged::{Budget, PagedAdamWConfig};

use crate::device::DeviceName;
use crate::flags::{OptimizerName, TrainFlags};

/// The optimizer, which decides what is computed, and the place of its state, which does not.
#[derive(Clone, Copy, Debug)]
pub struct Optimizer {
    /// The optimizer.
    pub kind: OptimizerKind,
    /// The place of its state.
    pub placement: Placement,
}

/// The part of the optimizer's state that stays in the device's memory.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// The part that stays.
    pub budget: Budget,
    /// Most bytes of the device's memory for everything together, for [`Budget::Auto`].
    pub memory_limit: Option<u64>,
}

impl Optimizer {
    /// Takes `--optimizer` apart, with the flags on its memory.
    ///
    /// # Errors
    /// As [`Placement`]'s: a budget for an optimizer that is not paged, and `auto` where the memory is unknown.
    pub(super) fn resolve(flags: &TrainFlags) -> Result<Self> {
        Ok(Self {
            kind: match flags.optimizer {
                OptimizerName::Adamw | OptimizerName::PagedAdamw => OptimizerKind::AdamW,
                OptimizerName::PagedAdamw8bit => OptimizerKind::AdamW8bit,
                OptimizerName::Lion => OptimizerKind::Lion,
                OptimizerName::Muon => OptimizerKind::Muon,
                OptimizerName::Adafactor => OptimizerKind::Adafactor,
            },
            placement: Placement {
                budget: budget(flags, flags.model.device)?,
                memory_limit: flags.device_memory,
            },
        })
    }
}

impl Placement {
    /// Returns the configuration of the optimizer of `config`, its streamed pages in `page_file`, or else in a temporary file.
    pub fn adamw(self, config: &TrainConfig, page_file: Option<PathBuf>) -> PagedAdamWConfig {
        config
            .adamw()
            .with_budget(self.budget)
            .with_memory_limit(self.memory_limit)
            .with_page_file(page_file)
    }
}

/// Returns the part of the state that stays resident.
///
/// # Errors
/// A budget for an optimizer that is not paged, and `auto` where the device does not report its memory.
fn budget(flags: &TrainFlags, device: DeviceName) -> Result<Budget> {
    let known = flags.device_memory.is_some() || device.is_flex();
    let resident = match flags.optimizer {
        OptimizerName::Adamw => Some("adamw"),
        OptimizerName::Lion => Some("lion"),
        OptimizerName::Muon => Some("muon"),
        OptimizerName::Adafactor => Some("adafactor"),
        OptimizerName::PagedAdamw | OptimizerName::PagedAdamw8bit => None,
    };
    if let Some(name) = resident {
        if flags.optimizer_budget.is_some() || flags.device_memory.is_some() {
            bail!(
                "--optimizer-budget, --device-memory: {name} keeps all of its state in memory; choose \
                 --optimizer paged-adamw"
            );
        }
        return Ok(Budget::Resident);
    }
    match flags.optimizer_budget {
        None if known => Ok(Budget::Auto),
        None => Ok(Budget::Resident),
        Some(Budget::Auto) if !known => bail!(
            "--optimizer-budget auto: {device} does not tell how much memory it has; say what may be taken, \
             as --device-memory 24GB"
        ),
        Some(Budget::Auto) => Ok(Budget::Auto),
        Some(budget) if flags.device_memory.is_some() => bail!(
            "--device-memory: only --optimizer-budget auto goes by it, and the budget is {budget}"
        ),
        Some(budget) => Ok(budget),
    }
}
