//! What comes between the steps: evaluations, the best step, looks at the model.

use crate::runs::{DROPOUT, create, resume, run, settings};
use crate::support::{Toy, rows, trainer};
use burn::tensor::Device;
use burn_finetune::{
    Dataset, Event, FinetuneError, Outcome, RecordedRun, Row, RunDir, RunOptions, Trainer,
};
use burn_qlora::CausalLm;
use std::cell::Cell;
use std::fs;

pub const WEIGHTS: &str = "adapter_model.safetensors";

/// The events of a run until its end, with `evaluated` and `saved` steps, and the way it ended.
struct Told {
    events: Vec<String>,
    outcome: Result<Outcome, FinetuneError>,
}

/// Runs with evaluations, and is interrupted at the `stop`-th time that it asks.
fn tell(trainer: &mut Trainer<Toy>, eval: &Dataset, run_dir: &RunDir, stop: usize) -> Told {
    let asked = Cell::new(0);
    let interrupted = || {
        asked.set(asked.get() + 1);
        asked.get() > stop
    };
    let options = RunOptions {
        run_dir: Some(run_dir),
        eval: Some(eval),
        eval_every: Some(2),
        interrupted: Some(&interrupted),
        ..RunOptions::default()
    };
    let mut events = Vec::new();
    let outcome = trainer.run(&rows(10), &options, &mut |event| {
        events.push(match event {
            Event::Step(report) => format!("step {}", report.step),
            Event::Saved { step, .. } => format!("saved {step}"),
            Event::Evaluated(evaluation) => format!("evaluated {}", evaluation.step),
            Event::EvaluationLeftOut { step } => format!("left out {step}"),
            _ => "other".into(),
        });
    });
    Told { events, outcome }
}

/// Saved first, then evaluated; and asked between batches whether to stop.
pub fn a_step_is_saved_before_it_is_evaluated(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let eval = rows(7);
    // After each step but the last it asks once, before each of the three batches of an evaluation too.
    let whole = tell(
        &mut trainer(device, DROPOUT, 3),
        &eval,
        &create(&path("whole")),
        99,
    );
    assert_eq!(
        whole.events,
        [
            "step 1",
            "step 2",
            "evaluated 2",
            "step 3",
            "saved 3",
            "evaluated 3"
        ]
    );
    assert!(matches!(whole.outcome, Ok(Outcome::Finished)));

    let middle = tell(
        &mut trainer(device, DROPOUT, 3),
        &eval,
        &create(&path("middle")),
        3,
    );
    assert_eq!(middle.events, ["step 1", "step 2", "left out 2", "saved 2"]);
    assert!(matches!(
        middle.outcome,
        Ok(Outcome::Interrupted { step: 2 })
    ));

    // What was given up is made up for.
    let mut three = settings();
    three.config.steps = 3;
    let run_dir = RecordedRun::open(path("middle")).unwrap();
    let run_dir = run_dir.resume(&three).unwrap();
    let mut resumed = trainer(device, DROPOUT, 3);
    assert_eq!(run_dir.restore(&mut resumed).unwrap(), 2);
    let rest = tell(&mut resumed, &eval, &run_dir, 99);
    assert_eq!(
        rest.events,
        ["evaluated 2", "step 3", "saved 3", "evaluated 3"]
    );

    let last = tell(
        &mut trainer(device, DROPOUT, 3),
        &eval,
        &create(&path("last")),
        6,
    );
    assert_eq!(last.events[3..], ["step 3", "saved 3", "left out 3"]);
    assert!(matches!(last.outcome, Ok(Outcome::Interrupted { step: 3 })));
}

/// Held-out rows in which other tokens follow than in those that are learnt: their loss falls for a while, as far as the
/// lengths of rows go, and rises for good.
pub fn backwards() -> Dataset {
    let forwards = rows(7);
    let backwards = forwards.rows().map(|row| {
        let mut ids = row.unwrap().ids;
        ids.reverse();
        Row::all(ids)
    });
    Dataset::from_rows(backwards.collect())
}

/// Runs until the held-out loss has not fallen for three evaluations, and keeps the best step and the last.
pub fn run_to_the_best(
    trainer: &mut Trainer<Toy>,
    eval: &Dataset,
    run_dir: &RunDir,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Outcome {
    let options = RunOptions {
        run_dir: Some(run_dir),
        eval: Some(eval),
        eval_every: Some(1),
        kept_checkpoints: Some(1),
        keep_best: true,
        early_stop: Some(3),
        ..RunOptions::default()
    };
    trainer.run(&rows(10), &options, on_event).unwrap()
}

pub fn saved_steps(run_dir: &RunDir) -> Vec<usize> {
    let saved = run_dir.checkpoints().unwrap();
    saved.into_iter().map(|(step, _)| step).collect()
}

pub fn the_best_step_stays_and_a_run_that_gains_nothing_stops(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let eval = backwards();
    let path = dir.path().join("run");
    let run = |trainer: &mut Trainer<Toy>, run_dir: &RunDir| {
        let mut losses = Vec::new();
        let outcome = run_to_the_best(trainer, &eval, run_dir, &mut |event| {
            if let Event::Evaluated(evaluation) = event {
                losses.push(evaluation.loss());
            }
        });
        (outcome, losses)
    };
    let run_dir = create(&path);
    let mut whole = trainer(device, DROPOUT, 13);
    let (outcome, losses) = run(&mut whole, &run_dir);
    let stopped = losses.len();
    assert!((4..13).contains(&stopped), "{losses:?}");
    assert_eq!(outcome, Outcome::StoppedEarly { step: stopped });
    let best = run_dir.evaluations(&eval, stopped).unwrap().best().unwrap();
    assert_eq!(best.step, stopped - 3);
    assert!(losses.iter().all(|loss| *loss >= best.loss()), "{losses:?}");
    assert_eq!(saved_steps(&run_dir), [best.step, stopped]);

    run_dir.save_adapter_of(best.step).unwrap();
    let checkpoint = path.join(format!("checkpoints/step-{:08}", best.step));
    assert!(fs::read(path.join(WEIGHTS)).unwrap() == fs::read(checkpoint.join(WEIGHTS)).unwrap());

    // Gone on with, it knows what it has seen.
    drop(run_dir);
    let run_dir = resume(&path);
    let mut again = trainer(device, DROPOUT, 13);
    run_dir.restore(&mut again).unwrap();
    assert_eq!(run(&mut again, &run_dir), (outcome, Vec::new()));
}

/// The model is looked at before the first step, where evaluations are due, and after the last step; a look that gives up stops
/// the run, and the one that goes on takes it first.
pub fn the_model_is_looked_at_and_the_steps_have_the_same_bits(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let mut plain = trainer(device, DROPOUT, 5);
    run(&mut plain, &create(&dir.path().join("plain")), None);

    let path = dir.path().join("run");
    let looked = |trainer: &mut Trainer<Toy>, run_dir: &RunDir, give_up: Option<usize>| {
        let steps = std::cell::RefCell::new(Vec::new());
        let look = |model: &Toy, step: usize| {
            assert_eq!(model.factors().len(), 4);
            steps.borrow_mut().push(step);
            // As whoever draws numbers would.
            model.device().seed(99);
            if give_up == Some(step) {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        };
        let options = RunOptions {
            run_dir: Some(run_dir),
            eval_every: Some(2),
            look: Some(&look),
            ..RunOptions::default()
        };
        let outcome = trainer.run(&rows(10), &options, &mut |_| ()).unwrap();
        (outcome, steps.into_inner())
    };
    let run_dir = create(&path);
    let mut first = trainer(device, DROPOUT, 5);
    let outcome = looked(&mut first, &run_dir, Some(2));
    assert_eq!(outcome, (Outcome::Interrupted { step: 2 }, vec![0, 2]));
    drop(run_dir);
    let run_dir = resume(&path);
    let mut second = trainer(device, DROPOUT, 5);
    assert_eq!(run_dir.restore(&mut second).unwrap(), 2);
    let outcome = looked(&mut second, &run_dir, None);
    assert_eq!(outcome, (Outcome::Finished, vec![2, 4, 5]));
    assert_eq!(second.model().factors(), plain.model().factors());
}
