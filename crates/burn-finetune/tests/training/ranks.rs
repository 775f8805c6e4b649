//! Ranks of a run: threads, whose sums are made in memory.

use crate::preferences::{config_of, objectives, references};
use crate::runs::{DROPOUT, settings};
use crate::support::{Toy, config, lora, rows};
use burn::tensor::Device;
use burn_finetune::{
    Dataset, Evaluation, Event, FinetuneError, GradientDtype, Link, Outcome, Ranks, RecordedRun,
    RunDir, RunOptions, RunRecord, TrainConfig, Trainer, TrainerBuilder, adapters_checksum,
};
use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What the ranks of a run share.
#[derive(Debug, Default)]
struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a rank computes: one at a time does, for Burn's generators are the process's.
    busy: bool,
    /// What each rank adds to the sum under way.
    parts: Vec<Option<Vec<f64>>>,
    sums: Vec<f64>,
    /// Sums that are made.
    made: usize,
    is_stop_wished: bool,
}

/// A rank that is a thread.
#[derive(Debug)]
struct Thread {
    rank: usize,
    size: usize,
    board: Arc<Board>,
}

impl Thread {
    /// Waits until a condition holds, and computes from then on.
    fn begin(&self, until: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.board.state.lock().unwrap();
        let time = Duration::from_secs(60);
        let waited = self
            .board
            .changed
            .wait_timeout_while(state, time, |state| state.busy || !until(state));
        let (mut state, time) = waited.unwrap();
        assert!(!time.timed_out(), "rank {} waits for ever", self.rank);
        state.busy = true;
        state
    }

    fn end(&self, state: &mut State) {
        state.busy = false;
        self.board.changed.notify_all();
    }

    fn added(&self, values: Vec<f64>) -> Vec<f64> {
        let mut state = self.board.state.lock().unwrap();
        let made = state.made;
        state.parts.resize(self.size, None);
        state.parts[self.rank] = Some(values);
        if state.parts.iter().all(Option::is_some) {
            let parts: Vec<Vec<f64>> = state.parts.iter_mut().filter_map(Option::take).collect();
            assert!(parts.iter().all(|part| part.len() == parts[0].len()));
            let sum = |at| parts.iter().map(|part| part[at]).sum();
            state.sums = (0..parts[0].len()).map(sum).collect();
            state.made += 1;
        }
        self.end(&mut state);
        drop(state);
        self.begin(|state| state.made > made).sums.clone()
    }
}

impl Link for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f64], _: Option<Duration>) -> Result<(), FinetuneError> {
        values.copy_from_slice(&self.added(values.to_vec()));
        Ok(())
    }

    fn sum_gradients(
        &self,
        values: &mut Vec<f32>,
        _: GradientDtype,
        _: Option<Duration>,
    ) -> Result<(), FinetuneError> {
        let sums = self.added(values.iter().map(|value| f64::from(*value)).collect());
        for (value, sum) in values.iter_mut().zip(sums) {
            *value = sum as f32;
        }
        Ok(())
    }

    fn wish_to_stop(&self) {
        self.board.state.lock().unwrap().is_stop_wished = true;
    }

    fn is_stop_wished(&self) -> bool {
        self.board.state.lock().unwrap().is_stop_wished
    }
}

/// Runs `work` on as many ranks, and returns what each gives.
fn on_ranks<T: Send>(size: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let board = Arc::<Board>::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                let board = board.clone();
                let work = &work;
                scope.spawn(move || {
                    let thread = Arc::new(Thread { rank, size, board });
                    drop(thread.begin(|_| true));
                    let done = work(Ranks::linked(thread.clone()));
                    thread.end(&mut thread.board.state.lock().unwrap());
                    done
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// What a run comes to: the loss of each step, the evaluations, and the adapters.
#[derive(Debug, Clone, PartialEq)]
struct Course {
    losses: Vec<f64>,
    norms: Vec<f64>,
    evaluations: Vec<f64>,
    factors: Vec<Vec<f32>>,
}

impl Course {
    fn take(mut trainer: Trainer<Toy>, data: &Dataset, options: &RunOptions<'_, Toy>) -> Self {
        let (mut losses, mut norms, mut evaluations) = (Vec::new(), Vec::new(), Vec::new());
        let outcome = trainer.run(data, options, &mut |event| match event {
            Event::Step(report) => {
                losses.push(report.loss);
                norms.push(report.grad_norm);
            }
            Event::Evaluated(evaluation) => evaluations.push(Evaluation::loss(evaluation)),
            _ => {}
        });
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        Self {
            losses,
            norms,
            evaluations,
            factors: trainer.model().factors(),
        }
    }

    /// Checks that it is the same but for the order in which gradients were added up: rounding, which Adam does not make smaller
    /// where a gradient is near 0.
    #[track_caller]
    fn is_that_of_one_process(&self, one: &Self, what: &str) {
        let pairs = |own: &[f64], other: &[f64]| -> f64 {
            assert_eq!(own.len(), other.len(), "{what}");
            let each = own.iter().zip(other);
            each.map(|(own, other)| (own - other).abs() / other.abs().max(1.0))
                .fold(0.0, f64::max)
        };
        assert!(pairs(&self.losses, &one.losses) < 1e-5, "{what}");
        assert!(pairs(&self.norms, &one.norms) < 1e-4, "{what}");
        assert!(pairs(&self.evaluations, &one.evaluations) < 1e-5, "{what}");
        let own = self.factors.iter().flatten();
        let apart = own.zip(one.factors.iter().flatten());
        let apart = apart.map(|(own, one)| (own - one).abs());
        let apart = apart.fold(0.0, f32::max);
        assert!(apart < 2e-4, "{what}: {apart}");
    }
}

fn build(device: &Device, config: TrainConfig, ranks: &Ranks) -> Trainer<Toy> {
    let builder = TrainerBuilder::new(Toy::new(device, DROPOUT), config).unwrap();
    builder.with_ranks(ranks.clone()).build().unwrap()
}

/// Eleven rows, six a step in three micro-batches: the second step of an epoch has five, and of five ranks some have nothing.
pub fn ranks_together_do_what_one_process_does(device: &Device) {
    let data = rows(11);
    let config = TrainConfig {
        batch_size: 2,
        grad_accum: 3,
        ..config(8)
    };
    let take = |ranks: &Ranks| {
        let options = RunOptions {
            eval: Some(&data),
            eval_every: Some(3),
            ..RunOptions::default()
        };
        let trainer = build(device, config.clone(), ranks);
        Course::take(trainer, &data, &options)
    };
    let one = take(&Ranks::single());
    assert_eq!(one.evaluations.len(), 3);
    for size in [1, 2, 5] {
        let all = on_ranks(size, |ranks| take(&ranks));
        all[0].is_that_of_one_process(&one, &format!("{size} ranks"));
        assert!(all.iter().all(|other| *other == all[0]));
    }
    let [first, second] = [(); 2].map(|()| on_ranks(3, |ranks| take(&ranks)).remove(0));
    first.is_that_of_one_process(&one, "3 ranks");
    assert_eq!(first, second, "as many ranks have the same bits each time");
}

pub fn preferences_are_learnt_together_as_by_one_process(device: &Device) {
    for objective in objectives() {
        let data = crate::preferences::rows(objective.examples());
        let take = |ranks: &Ranks| {
            let trainer = build(device, config_of(objective, 4), ranks);
            let references = references(&trainer, &data);
            let options = RunOptions {
                eval: Some(&data),
                references: references.as_ref(),
                eval_references: references.as_ref(),
                ..RunOptions::default()
            };
            Course::take(trainer, &data, &options)
        };
        let one = take(&Ranks::single());
        // One of them has nothing to do.
        let all = on_ranks(3, |ranks| take(&ranks));
        all[0].is_that_of_one_process(&one, &format!("{objective:?}"));
        assert!(all.iter().all(|other| *other == all[0]));
    }
}

/// Stopped by a request to the last of four ranks in its fourth step, then taken up by two.
pub fn a_run_goes_on_with_another_number_of_ranks(device: &Device) {
    let data = rows(11);
    let config = TrainConfig {
        batch_size: 1,
        grad_accum: 4,
        ..config(9)
    };
    let one = build(device, config.clone(), &Ranks::single());
    let one = Course::take(one, &data, &RunOptions::default());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut of_run = settings();
    of_run.config = config.clone();
    let begun = RunDir::create(&path, &of_run).unwrap();
    let begun = Mutex::new(Some(begun));
    let losses = on_ranks(4, |ranks| {
        let run_dir = begun.lock().unwrap().take_if(|_| ranks.is_first());
        let mut trainer = build(device, config.clone(), &ranks);
        let mut losses = Vec::new();
        let taken = Cell::new(0);
        let stop = || ranks.rank() == 3 && taken.get() == 4;
        let options = RunOptions {
            run_dir: run_dir.as_ref(),
            interrupted: Some(&stop),
            ..RunOptions::default()
        };
        let outcome = trainer.run(&data, &options, &mut |event| {
            if let Event::Step(report) = event {
                losses.push(report.loss);
                taken.set(report.step);
            }
        });
        assert_eq!(outcome.unwrap(), Outcome::Interrupted { step: 4 });
        losses
    });
    drop(begun);
    let run_dir = RecordedRun::open(&path).unwrap();
    let run_dir = Mutex::new(Some(run_dir.resume(&of_run).unwrap()));
    let mut ends = on_ranks(2, |ranks| {
        let run_dir = run_dir.lock().unwrap().take_if(|_| ranks.is_first());
        let mut trainer = build(device, config.clone(), &ranks);
        let done = match &run_dir {
            Some(run_dir) => run_dir.restore(&mut trainer),
            None => RunRecord::read(&path)
                .unwrap()
                .restore(&mut trainer, &lora(DROPOUT)),
        };
        assert_eq!(done.unwrap(), 4);
        let options = RunOptions {
            run_dir: run_dir.as_ref(),
            ..RunOptions::default()
        };
        Course::take(trainer, &data, &options)
    });
    let mut whole = ends.remove(0);
    whole.losses.splice(0..0, losses[0].clone());
    whole.norms.splice(0..0, one.norms[..4].to_vec());
    whole.is_that_of_one_process(&one, "four ranks, then two");
}

/// As those on another processor come to: a rank whose adapters are another's.
pub fn ranks_with_other_bits_get_the_adapters_of_the_first(device: &Device) {
    let data = rows(9);
    let run = |ranks: Ranks, machine: &str, other: bool| {
        let ranks = ranks.computing_on(machine).unwrap();
        let mut model = Toy::new(device, 0.0);
        if other && ranks.rank() == 1 {
            let mut moved = false;
            burn_qlora::LoraModel::update_adapters(&mut model, &mut |mut branch| {
                if !moved {
                    branch.lora.a = branch.lora.a.map(|a| a + 1e-3);
                    moved = true;
                }
                branch
            });
        }
        let trainer = TrainerBuilder::new(model, config(4)).unwrap();
        let mut trainer = trainer.with_ranks(ranks.clone()).build().unwrap();
        let mut told = Vec::new();
        let options = RunOptions {
            save_every: Some(2),
            ..RunOptions::default()
        };
        let outcome = trainer.run(&data, &options, &mut |event| {
            if let Event::AdaptersDiffer { step, rank } = event {
                told.push((step, rank));
            }
        });
        outcome.unwrap();
        let checksum = adapters_checksum(trainer.model()).unwrap();
        (checksum, told, ranks.send_adapters())
    };
    // Found out where a step is saved.
    let ends = on_ranks(3, |ranks| run(ranks, "cpu", true));
    assert!(ends.iter().all(|(checksum, ..)| *checksum == ends[0].0));
    assert!(ends.iter().all(|end| end.1 == [(2, 1)] && end.2));
    // Known from the beginning.
    let ends = on_ranks(3, |ranks| {
        let machine = ["cpu", "gpu", "cpu"][ranks.rank()];
        run(ranks, machine, true)
    });
    assert!(ends.iter().all(|(checksum, ..)| *checksum == ends[0].0));
    assert!(ends.iter().all(|end| end.1.is_empty() && end.2));
    let ends = on_ranks(2, |ranks| run(ranks, "cpu", false));
    assert!(ends.iter().all(|end| end.1.is_empty() && !end.2));
}

pub fn a_rank_with_another_run_is_named(_: &Device) {
    let alike = settings();
    let errors = on_ranks(3, |ranks| {
        let mut settings = alike.clone();
        if ranks.rank() == 2 {
            settings.config.seed += 1;
        }
        let checked = ranks.check_same(&settings.digests());
        (
            checked.unwrap_err().to_string(),
            ranks
                .text_of_first(&format!("text of {}", ranks.rank()))
                .unwrap(),
        )
    });
    for (error, text) in errors {
        assert_eq!(
            error,
            "rank 2 has another configuration than rank 0; give every rank the same"
        );
        assert_eq!(text, "text of 0");
    }
}
