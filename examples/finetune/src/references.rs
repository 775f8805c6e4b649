//! What the reference gives the rows of a run: the model before anything was learnt.
//!
//! It is asked once, before the first step, and its answers are kept in the run's directory, so that going on asks nothing.

use std::path::Path;

use anyhow::{Context, Result};
use burn_finetune::{
    Counts, Dataset, Kto, Objective, ReferenceConfig, ReferenceFile, References, RunSettings,
    Trainer,
};
use burn_qlora::detach_adapters;
use burn_qlora_llama::Decoder;

use crate::console::{say, tell};
use crate::interrupt::Interrupt;
use crate::progress;
use crate::run::{Adapter, TrainRun, Training};

/// The files of the rows to train on and to measure on, in a run's directory.
const FILES: [&str; 2] = ["reference.cache", "eval-reference.cache"];

/// What the reference gives the rows to train on and to measure on, where the objective has one.
#[derive(Debug, Default)]
pub struct RunReferences {
    /// The rows to train on.
    pub train: Option<References>,
    /// The rows to measure on.
    pub eval: Option<References>,
}

/// What the reference is asked for.
pub struct Question<'a> {
    /// The run.
    pub run: &'a TrainRun,
    /// All that decides what it computes.
    pub settings: &'a RunSettings,
    /// Most tokens in a row.
    pub max_len: usize,
    /// A request to stop.
    pub interrupt: &'a Interrupt,
}

impl Question<'_> {
    /// Returns what the reference gives the rows to train on and to measure on, from the run's directory where it has been
    /// asked before; `None` where it was to stop before all of it was there. The reference is the model of `trainer`, which
    /// has taken no step: fresh adapters are left out, which add nothing yet or what 4 bits took.
    ///
    /// # Errors
    /// A log-probability that is no number, a device that fails, a directory that cannot be written to.
    pub fn ask(
        &self,
        trainer: &Trainer<Decoder>,
        train: &Dataset,
        eval: Option<&Dataset>,
    ) -> Result<Option<RunReferences>> {
        let Some(config) = ReferenceConfig::of(trainer.config(), self.max_len) else {
            return Ok(Some(RunReferences::default()));
        };
        let model = reference(trainer, &self.run.training);
        let of = |rows, name| self.of_rows(&model, rows, name, config);
        let Some((train, asked)) = of(train, FILES[0])? else {
            return Ok(None);
        };
        let mut found = RunReferences {
            train: Some(train),
            eval: None,
        };
        if let Some(rows) = eval {
            match of(rows, FILES[1])? {
                Some((references, _)) => found.eval = Some(references),
                None => return Ok(None),
            }
        }
        if asked {
            let reference = match self.run.training.adapter {
                Adapter::Fresh(_) => "the model without an adapter",
                Adapter::Trained(_) => "the model with the adapter that the run starts from",
            };
            say!("The reference is {reference}; what it gives the rows is kept with the run");
        }
        Ok(Some(found))
    }

    /// Returns what the reference gave the rows when the first rank of a run asked it, from the run's directory.
    ///
    /// # Errors
    /// A directory in which it is not.
    pub fn kept(
        &self,
        trainer: &Trainer<Decoder>,
        train: &Dataset,
        eval: Option<&Dataset>,
    ) -> Result<RunReferences> {
        let Some(config) = ReferenceConfig::of(trainer.config(), self.max_len) else {
            return Ok(RunReferences::default());
        };
        let of = |rows: &Dataset, name| {
            let path = self.run.output.dir.join(name);
            let file = ReferenceFile::new(&path, rows, &self.base(), config)?;
            file.open().with_context(|| {
                format!(
                    "{} is not what the first rank has there: --output must be a folder that all ranks see",
                    path.display()
                )
            })
        };
        Ok(RunReferences {
            train: Some(of(train, FILES[0])?),
            eval: eval.map(|rows| of(rows, FILES[1])).transpose()?,
        })
    }

    /// Returns what the reference gives `rows`, and whether it was asked now.
    fn of_rows(
        &self,
        model: &Decoder,
        rows: &Dataset,
        name: &str,
        config: ReferenceConfig,
    ) -> Result<Option<(References, bool)>> {
        let path = self.run.output.dir.join(name);
        let file = ReferenceFile::new(path, rows, &self.base(), config)?;
        if let Some(kept) = file.open() {
            file.remove_pieces()?;
            return Ok(Some((kept, false)));
        }
        let mut first = true;
        let asked = progress::counted("rows before the first step", |show| {
            file.ask(model, rows, &mut |done, total| {
                if std::mem::take(&mut first) && done > 0 {
                    say!(
                        "The reference has seen {done} of {total} rows, and goes on with the next"
                    );
                }
                show(done, total);
                !self.interrupt.requested()
            })
        });
        Ok(asked?.map(|references| (references, true)))
    }

    /// Returns all that decides what the reference gives a row.
    fn base(&self) -> String {
        let sources = self.settings.sources.iter();
        let sources = sources.filter(|source| source.name != "data");
        let known = sources.map(|source| (source.name, source.fingerprint));
        let others = &self.settings.others;
        let numbers = ["weights", "compute-dtype"].map(|name| others.get(name));
        format!("{:?} {numbers:?}", known.collect::<Vec<_>>())
    }
}

/// Returns the reference of a run: the model of its `trainer`, which has taken no step, without fresh adapters, which add nothing
/// yet or what 4 bits took.
pub fn reference(trainer: &Trainer<Decoder>, training: &Training) -> Decoder {
    let mut model = trainer.model().clone();
    if matches!(training.adapter, Adapter::Fresh(_)) {
        detach_adapters(&mut model);
    }
    model
}

/// Removes what was kept of the reference in a run's directory.
pub fn remove(dir: &Path) {
    for name in FILES {
        // A file that stays is in nobody's way.
        let _ = ReferenceFile::remove(&dir.join(name));
    }
}

/// Says by which weights desirable and undesirable answers would count as much as the KTO paper advises (§3.4, equation 8), if they
/// do not.
pub fn tell_of_balance(objective: &Objective, counts: &Counts) {
    let Objective::Kto(Kto {
        desirable_weight,
        undesirable_weight,
        ..
    }) = *objective
    else {
        return;
    };
    let (desirable, undesirable) = (counts.desirable as f64, counts.undesirable as f64);
    if desirable == undesirable || desirable == 0.0 || undesirable == 0.0 {
        return;
    }
    // Desirable answers are to count once to 4/3 times as much as undesirable ones.
    let ratio = desirable_weight * desirable / (undesirable_weight * undesirable);
    if !(0.995..=4.0 / 3.0 + 0.005).contains(&ratio) {
        tell!(
            "warning: {desirable} answers are desirable and {undesirable} are not: --desirable-weight {:.2} or \
             --undesirable-weight {:.2} would make them count alike",
            undesirable_weight * undesirable / desirable,
            desirable_weight * desirable / undesirable
        );
    }
}
