use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use burn_finetune::memory;
use burn_paged::{Budget, WeightPages};

use crate::allocator::give_back_large_blocks;
use crate::flags::{ModelFlags, QuantName};

/// The part of the packed weights that stays on the device, and the place of the rest. It decides nothing of what is computed.
#[derive(Clone, Debug)]
pub struct WeightPaging {
    /// The part that stays.
    pub budget: Budget,
    /// The folder of the page file, where one is named.
    folder: Option<PathBuf>,
    /// Whether the device computes in the memory of this process.
    on_host: bool,
}

impl WeightPaging {
    /// Takes `--weights-budget` and `--page-dir`.
    ///
    /// # Errors
    /// A folder that is none, or that nothing would be written to; a budget for weights that are not packed.
    pub(super) fn resolve(flags: &ModelFlags) -> Result<Self> {
        let budget = flags.weights_budget.unwrap_or_default();
        if budget != Budget::Resident && flags.quant.quant == Some(QuantName::None) {
            bail!(
                "--weights-budget {budget}: only weights in 4 or 8 bits are paged, and --quant none keeps them dense"
            );
        }
        if budget == Budget::Auto
            && !(flags.device.is_host() && memory::available_bytes().is_some())
        {
            bail!(
                "--weights-budget auto: nobody tells how much memory {} has; say bytes (8GiB) or a share (50%)",
                flags.device
            );
        }
        if let Some(folder) = &flags.page_dir {
            ensure!(
                budget != Budget::Resident,
                "--page-dir: all weights stay in memory; let some of them leave it with --weights-budget"
            );
            ensure!(
                folder.is_dir(),
                "--page-dir {}: it is no folder",
                folder.display()
            );
        }
        Ok(Self {
            budget,
            folder: flags.page_dir.clone(),
            on_host: flags.device.is_host(),
        })
    }

    /// Makes the pages for weights of which `budget` stays; `None` if all of them do.
    ///
    /// # Errors
    /// A page file that cannot be made.
    pub fn open(&self, budget: Budget) -> Result<Option<WeightPages>> {
        if budget == Budget::Resident {
            return Ok(None);
        }
        give_back_large_blocks();
        let temporary = || self.on_host.then(std::env::temp_dir);
        let pages = match self.folder.clone().or_else(temporary) {
            Some(folder) => {
                let name = format!("finetune-{}.weights", std::process::id());
                WeightPages::on_disk(&folder.join(name), budget)?
            }
            None => WeightPages::in_memory(budget)?,
        };
        Ok(Some(pages))
    }

    /// Returns the budget, [`Budget::Auto`] decided: as much as fits into four fifths of the `available` bytes, when `peak` tells what
    /// a budget takes in all. The rest is for what a plan may be wrong by, and for other programs. Where it is not known what there
    /// is, all of it.
    ///
    /// # Errors
    /// Those of `peak`.
    pub fn decide(
        &self,
        available: Option<u64>,
        peak: impl Fn(Budget) -> Result<u64>,
    ) -> Result<Budget> {
        let usable = available.map(|available| available / 5 * 4);
        match (self.budget, usable) {
            (Budget::Auto, Some(usable)) if peak(Budget::Resident)? > usable => {
                let least = peak(Budget::Bytes(0))?;
                Ok(Budget::Bytes(usable.saturating_sub(least)))
            }
            (Budget::Auto, _) => Ok(Budget::Resident),
            (budget, _) => Ok(budget),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_four_fifths_of_what_there_is() {
        let auto = WeightPaging {
            budget: Budget::Auto,
            folder: None,
            on_host: true,
        };
        let peak = |budget| {
            Ok(match budget {
                Budget::Resident => 100,
                _ => 40,
            })
        };
        let decide = |available| auto.decide(available, peak).unwrap();
        assert_eq!(decide(None), Budget::Resident);
        assert_eq!(decide(Some(125)), Budget::Resident);
        assert_eq!(decide(Some(120)), Budget::Bytes(56));
        assert_eq!(decide(Some(30)), Budget::Bytes(0));
        let half = WeightPaging {
            budget: Budget::Fraction(0.5),
            ..auto
        };
        assert_eq!(half.decide(Some(1), peak).unwrap(), Budget::Fraction(0.5));
    }
}
