use std::path::PathBuf;

use anyhow::{Result, bail};
use burn_finetune::TrainConfig;
use burn_paged::{Budget, PagedAdamWConfig, StateDtype};

use crate::device::DeviceName;
use crate::flags::{OptimizerName, TrainFlags};

/// The optimizer's state: the format of its moments, which decides what is computed, and their place, which does not.
#[derive(Clone, Copy, Debug)]
pub struct Optimizer {
    /// The format of the moments.
    pub state: StateDtype,
    /// Their place.
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
            state: match flags.optimizer {
                OptimizerName::Adamw | OptimizerName::PagedAdamw => StateDtype::F32,
                OptimizerName::PagedAdamw8bit => StateDtype::Dynamic8,
            },
            placement: Placement {
                budget: budget(flags, flags.model.device)?,
                memory_limit: flags.device_memory,
            },
        })
    }
}

impl Placement {
    /// Returns the configuration of the optimizer of `config`, its streamed pages in `page_file`.
    pub fn adamw(self, config: &TrainConfig, page_file: PathBuf) -> PagedAdamWConfig {
        config
            .adamw()
            .with_budget(self.budget)
            .with_memory_limit(self.memory_limit)
            .with_page_file(Some(page_file))
    }
}

/// Returns the part of the state that stays resident.
///
/// # Errors
/// A budget for an optimizer that is not paged, and `auto` where the device does not report its memory.
fn budget(flags: &TrainFlags, device: DeviceName) -> Result<Budget> {
    let known = flags.device_memory.is_some() || device.is_flex();
    if flags.optimizer == OptimizerName::Adamw {
        if flags.optimizer_budget.is_some() || flags.device_memory.is_some() {
            bail!(
                "--optimizer-budget, --device-memory: adamw keeps all of its state in memory; choose \
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
