//! A budget changes the bytes that are moved, and no bit of a result.

use crate::support::{PAGE, SHAPES, Training};
use burn_core::tensor::Device;
use burn_paged::{Budget, PagedAdamW, PagedAdamWConfig, PagedError, StateDtype};

pub const BUDGETS: [Budget; 7] = [
    Budget::Resident,
    Budget::Auto,
    Budget::Fraction(0.5),
    Budget::Fraction(0.1),
    Budget::Bytes(0),
    Budget::Bytes(100_000),
    Budget::Bytes(300_000),
];

pub fn config(budget: Budget) -> PagedAdamWConfig {
    PagedAdamWConfig::new()
        .with_budget(budget)
        .with_page_bytes(PAGE)
}

pub fn adamw(budget: Budget) -> PagedAdamW {
    config(budget).build().unwrap()
}

pub fn adamw_8bit(budget: Budget) -> PagedAdamW {
    let config = config(budget).with_state(StateDtype::Dynamic8);
    config.build().unwrap()
}

pub fn every_budget_gives_the_same_bits(device: &Device) {
    let run = |budget| {
        let mut training = Training::new(adamw(budget), device);
        (0..5).for_each(|_| training.step());
        training.outcome()
    };
    let expected = run(Budget::Resident);
    for budget in BUDGETS {
        assert!(run(budget) == expected, "{budget}");
    }
}

pub fn every_budget_gives_the_same_bits_in_8_bits(device: &Device) {
    let run = |budget| {
        let mut training = Training::new(adamw_8bit(budget), device);
        (0..5).for_each(|_| training.step());
        training.outcome()
    };
    let expected = run(Budget::Resident);
    for budget in BUDGETS {
        assert!(run(budget) == expected, "{budget}");
    }
}

pub fn bytes_moved_are_twice_what_is_not_resident(device: &Device) {
    for budget in BUDGETS {
        let mut training = Training::new(adamw(budget), device);
        for step in 1..=4 {
            training.step();
            training.optimizer.end_step().unwrap();
            let report = training.optimizer.report();
            let [state, resident] = [report.state_bytes, report.resident_bytes];
            let elements: usize = SHAPES.iter().map(|[rows, columns]| rows * columns).sum();
            assert!((8 * elements as u64..8 * elements as u64 + 128 * 8).contains(&state));
            match budget {
                Budget::Resident | Budget::Auto => assert_eq!(resident, state),
                Budget::Bytes(limit) => assert!(resident <= limit && limit < resident + 65536),
                Budget::Fraction(share) => assert!(resident as f64 <= share * state as f64),
            }
            // The first step makes the pages.
            if step > 1 {
                assert_eq!(report.bytes_moved(), 2 * (state - resident), "{budget}");
                assert_eq!(report.bytes_in, report.bytes_out);
            }
        }
    }
}

pub fn the_state_takes_what_was_said_before(device: &Device) {
    for budget in BUDGETS {
        for state in [StateDtype::F32, StateDtype::Dynamic8] {
            let config = config(budget).with_state(state);
            let said = config.memory(SHAPES.map(|[rows, columns]| rows * columns));
            let mut training = Training::new(config.build().unwrap(), device);
            training.step();
            training.optimizer.end_step().unwrap();
            let report = training.optimizer.report();
            assert_eq!(said.state, report.state_bytes);
            let unfilled = said.resident - report.resident_bytes;
            assert!(unfilled < PAGE as u64, "{budget}: {unfilled}");
            assert_eq!(said.workspace == 0, said.resident == said.state, "{budget}");
            assert!(said.workspace <= 2 * PAGE as u64 && said.total() <= said.state);
        }
    }
}

pub fn the_budget_may_change_on_the_way(device: &Device) {
    let mut still = Training::new(adamw(Budget::Resident), device);
    let mut moving = Training::new(adamw(Budget::Bytes(0)), device);
    for budget in BUDGETS {
        still.step();
        moving.step();
        moving.optimizer.set_budget(budget).unwrap();
    }
    assert!(moving.outcome() == still.outcome());
    let error = moving
        .optimizer
        .set_budget(Budget::Fraction(1.5))
        .unwrap_err();
    assert!(matches!(error, PagedError::Config { .. }), "{error}");
}

pub fn cloned_states_go_their_own_ways(device: &Device) {
    let mut one = Training::new(adamw(Budget::Bytes(0)), device);
    one.step();
    let mut other = Training {
        optimizer: one.optimizer.clone(),
        params: one.params.clone(),
        states: one.states.clone(),
        step: one.step,
    };
    one.step();
    one.step();
    let far = one.outcome();
    other.step();
    assert!(other.outcome() != far);
    other.step();
    assert!(other.outcome() == far);
    assert!(one.outcome() == far);
}

pub fn settings_that_cannot_work_are_refused(_: &Device) {
    let refused = |config: PagedAdamWConfig| match config.build() {
        Err(PagedError::Config { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let config = PagedAdamWConfig::new;
    assert_eq!(refused(config().with_beta_1(1.0)), "beta 1");
    assert_eq!(refused(config().with_beta_2(-0.1)), "beta 2");
    assert_eq!(refused(config().with_epsilon(f64::NAN)), "epsilon");
    assert_eq!(refused(config().with_weight_decay(-1.0)), "weight decay");
    assert_eq!(refused(config().with_page_bytes(1000)), "page size");
    assert_eq!(
        refused(config().with_budget(Budget::Fraction(2.0))),
        "budget"
    );
}
