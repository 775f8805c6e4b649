use anyhow::{Result, bail, ensure};
use burn_finetune::{ScheduleKind, TrainConfig};

use crate::flags::TrainFlags;

/// The course of the learning rate over a run whose length is not known yet.
#[derive(Clone, Copy, Debug)]
pub struct LearningRate {
    kind: ScheduleKind,
    highest: f64,
    lowest: f64,
    warmup: Warmup,
    cycles: usize,
    decay: f64,
}

#[derive(Clone, Copy, Debug)]
enum Warmup {
    Steps(usize),
    Share(f64),
}

impl LearningRate {
    /// Takes `--lr`, `--schedule` and the flags that say more of them.
    ///
    /// # Errors
    /// A flag that the schedule has no use for.
    pub(super) fn resolve(flags: &TrainFlags) -> Result<Self> {
        let kind = flags.schedule;
        if kind == ScheduleKind::Constant && flags.min_lr.is_some() {
            bail!("--min-lr: a constant learning rate does not fall; give --schedule cosine");
        }
        ensure!(
            kind == ScheduleKind::CosineRestarts || flags.schedule_cycles.is_none(),
            "--schedule-cycles: --schedule {kind} falls once; give --schedule cosine-restarts"
        );
        ensure!(
            kind == ScheduleKind::Wsd || flags.decay_ratio.is_none(),
            "--decay-ratio: --schedule {kind} has no part of its own in which it falls; give --schedule wsd"
        );
        Ok(Self {
            kind,
            highest: flags.lr,
            lowest: flags.min_lr.unwrap_or(0.0),
            warmup: flags
                .warmup_ratio
                .map_or(Warmup::Steps(flags.warmup_steps), Warmup::Share),
            cycles: flags.schedule_cycles.unwrap_or(2),
            decay: flags.decay_ratio.unwrap_or(0.1),
        })
    }

    /// Writes it into the numbers of a run of `config.steps` steps. Shares of the steps are rounded up, as transformers'
    /// `warmup_ratio` is.
    pub(super) fn apply(&self, config: &mut TrainConfig) {
        let steps_of = |share: f64| (config.steps as f64 * share).ceil() as usize;
        let warmup_steps = match self.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Share(share) => steps_of(share),
        };
        let decay_steps = steps_of(self.decay);
        config.schedule = self.kind;
        config.lr = self.highest;
        config.min_lr = self.lowest;
        config.warmup_steps = warmup_steps;
        if self.kind == ScheduleKind::CosineRestarts {
            config.cycles = self.cycles;
        }
        if self.kind == ScheduleKind::Wsd {
            config.decay_steps = decay_steps;
        }
    }
}
