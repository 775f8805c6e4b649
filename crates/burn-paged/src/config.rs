//! [`PagedAdamWConfig`], and [`StateMemory`], what an optimizer of it takes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use burn_core as burn;
use burn_core::config::Config;
use nf4::adamw::AdamW;

use crate::adamw::PagedAdamW;
use crate::budget::Budget;
use crate::error::PagedError;
use crate::pool::{Pool, PoolConfig};
use crate::state_dtype::StateDtype;

/// Bytes of a page unless the configuration says otherwise.
pub const PAGE_BYTES: usize = 2 << 20;

/// Elements from which on a parameter's state may be of 8 bits unless the configuration says otherwise.
pub const MIN_8BIT_ELEMENTS: usize = 4096;

/// Configuration of [`PagedAdamW`], with torch's defaults.
#[derive(Config, Debug)]
pub struct PagedAdamWConfig {
    /// Decay of the first moment.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// Decay of the second moment.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to the root of the second moment.
    #[config(default = 1e-8)]
    pub epsilon: f64,
    /// Decoupled weight decay.
    #[config(default = 0.01)]
    pub weight_decay: f64,
    /// The format of the moments.
    #[config(default = "StateDtype::F32")]
    pub state: StateDtype,
    /// The part of the state that stays resident.
    #[config(default = "Budget::Resident")]
    pub budget: Budget,
    /// Bytes of a page.
    #[config(default = "PAGE_BYTES")]
    pub page_bytes: usize,
    /// Parameters with fewer elements keep f32 moments, whatever `state` says (bitsandbytes `min_8bit_size`).
    #[config(default = "MIN_8BIT_ELEMENTS")]
    pub min_8bit_elements: usize,
    /// The page file, for devices whose pages are in one (Flex): scratch space that is made when the first
    /// page is streamed and removed with the optimizer. One in the system's folder for temporary files if it is not
    /// given; where that folder is in memory, paging into it saves nothing.
    #[config(default = "None")]
    pub page_file: Option<PathBuf>,
    /// For [`Budget::Auto`]: bytes that everything together may take. On Flex what the system has (Linux' `MemAvailable`,
    /// which knows nothing of a control group's limit) if it is not given; CubeCL devices do not tell, so there
    /// the state stays resident without it.
    #[config(default = "None")]
    pub memory_limit: Option<u64>,
}

/// The sizes of an optimizer's state, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateMemory {
    /// The whole state, wherever it is.
    pub state: u64,
    /// The most that stays resident: the budget is filled in whole pages.
    pub resident: u64,
    /// The two buffers that the rest passes through, at most as large as the rest.
    pub workspace: u64,
}

impl StateMemory {
    /// Returns the bytes that are taken where the update runs.
    pub fn total(&self) -> u64 {
        self.resident.saturating_add(self.workspace)
    }
}

impl PagedAdamWConfig {
    /// Makes the optimizer.
    ///
    /// # Errors
    /// [`PagedError::Config`] naming a setting that cannot work.
    pub fn build(&self) -> Result<PagedAdamW, PagedError> {
        let adamw = AdamW {
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
        };
        validate(&adamw)?;
        self.budget.validate()?;
        if self.page_bytes < 4096 || !self.page_bytes.is_multiple_of(256) {
            return Err(PagedError::Config {
                field: "page size",
                value: self.page_bytes.to_string(),
                expected: "a multiple of 256 bytes, 4096 or more",
            });
        }
        let pool = Pool::new(PoolConfig {
            budget: self.budget,
            page_bytes: self.page_bytes,
            page_file: self.page_file.clone().unwrap_or_else(temporary_file),
            memory_limit: self.memory_limit,
        });
        Ok(PagedAdamW::new(
            adamw,
            self.state,
            self.min_8bit_elements,
            pool,
        ))
    }

    /// Returns what the state of parameters of these numbers of elements takes.
    pub fn memory(&self, parameters: impl IntoIterator<Item = usize>) -> StateMemory {
        let bytes = |elements: usize| {
            let dtype = self.state.of_parameter(elements, self.min_8bit_elements);
            dtype.bytes(elements) as u64
        };
        let state = parameters
            .into_iter()
            .fold(0u64, |sum, elements| sum.saturating_add(bytes(elements)));
        let resident = self.budget.most(state);
        StateMemory {
            state,
            resident,
            workspace: (state - resident).min((self.page_bytes as u64).saturating_mul(2)),
        }
    }
}

/// # Errors
/// [`PagedError::Config`] naming the first setting that cannot work.
fn validate(adamw: &AdamW) -> Result<(), PagedError> {
    let refuse = |field, value: f64, expected| {
        Err(PagedError::Config {
            field,
            value: value.to_string(),
            expected,
        })
    };
    for (field, value) in [("beta 1", adamw.beta_1), ("beta 2", adamw.beta_2)] {
        if !(0.0..1.0).contains(&value) {
            return refuse(field, value, "in [0, 1)");
        }
    }
    for (field, value) in [
        ("epsilon", adamw.epsilon),
        ("weight decay", adamw.weight_decay),
    ] {
        if !(value.is_finite() && value >= 0.0) {
            return refuse(field, value, "a finite number, 0 or above");
        }
    }
    Ok(())
}

fn temporary_file() -> PathBuf {
    static USES: AtomicU64 = AtomicU64::new(0);
    let (process, count) = (std::process::id(), USES.fetch_add(1, Ordering::Relaxed));
    std::env::temp_dir().join(format!("burn-paged-{process}-{count}.pages"))
}
