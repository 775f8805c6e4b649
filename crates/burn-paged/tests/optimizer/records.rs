//! Saving and loading through burn-optim, and straight into pages.

use crate::budgets::{adamw, adamw_8bit, config};
use crate::support::{SHAPES, Training};
use burn_core as burn;
use burn_core::module::{Module, Param};
use burn_core::tensor::{Device, Tensor};
use burn_optim::{AdamWConfig, GradientsParams, ModuleOptimizer, OptimizerRecord};
use burn_paged::{Budget, Moments, PagedError};

/// Two factors, one of which is large enough for 8-bit state.
#[derive(Module, Debug)]
struct Factors {
    a: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
}

impl Factors {
    fn new(device: &Device) -> Self {
        let tensor = |shape, seed| {
            let tensor = crate::support::tensor(shape, seed, &device.clone().without_autodiff());
            Param::from_tensor(Tensor::from_inner(tensor).require_grad())
        };
        Self {
            a: tensor([300, 64], 1),
            b: tensor([64, 16], 2),
        }
    }

    fn bits(&self) -> Vec<u32> {
        let bits = |param: &Param<Tensor<2>>| {
            let data = param.val().into_data();
            data.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>()
        };
        [bits(&self.a), bits(&self.b)].concat()
    }
}

fn step(optimizer: &mut ModuleOptimizer, module: Factors) -> Factors {
    // No product: on CUDA Burn multiplies f32 in TF32, which is no matter of the optimizer.
    let loss = module.a.val().sin().sum() + module.b.val().sin().sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &module);
    optimizer.step(1e-2, module, gradients)
}

fn reloaded(optimizer: &ModuleOptimizer, into: ModuleOptimizer) -> ModuleOptimizer {
    let bytes = optimizer.to_record().into_bytes().unwrap();
    into.load_record(OptimizerRecord::from_bytes(bytes).unwrap())
}

pub fn a_record_goes_on_at_any_budget_with_the_same_bits(device: &Device) {
    let device = device.clone().autodiff();
    let optimizers: [fn(Budget) -> ModuleOptimizer; 2] = [
        |budget| adamw(budget).into(),
        |budget| adamw_8bit(budget).into(),
    ];
    for make in optimizers {
        let mut optimizer = make(Budget::Resident);
        let mut module = Factors::new(&device);
        for _ in 0..3 {
            module = step(&mut optimizer, module);
        }
        let mut others: Vec<_> = [Budget::Bytes(0), Budget::Fraction(0.5), Budget::Resident]
            .map(|budget| reloaded(&optimizer, make(budget)))
            .into();
        others.push(reloaded(&others[0], make(Budget::Resident)));
        let expected = (0..2)
            .fold(module.clone(), |module, _| step(&mut optimizer, module))
            .bits();
        for mut other in others {
            let resumed = (0..2).fold(module.clone(), |module, _| step(&mut other, module));
            assert!(resumed.bits() == expected);
        }
    }
}

pub fn burn_optims_own_adamw_loads_the_record_and_the_other_way_round(device: &Device) {
    let device = device.clone().autodiff();
    let burns = || {
        AdamWConfig::new()
            .with_epsilon(1e-8)
            .with_weight_decay(0.01)
            .init()
    };
    let paged = || ModuleOptimizer::from(adamw(Budget::Bytes(0)));
    let run = |mut first: ModuleOptimizer, other: ModuleOptimizer| {
        let module = Factors::new(&device);
        let module = (0..3).fold(module, |module, _| step(&mut first, module));
        let mut other = reloaded(&first, other);
        let module = (0..3).fold(module, |module, _| step(&mut other, module));
        let floats = module.bits().into_iter().map(f32::from_bits);
        floats.collect::<Vec<_>>()
    };
    let expected = run(burns(), burns());
    for got in [run(burns(), paged()), run(paged(), burns())] {
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() < 1e-4, "{got} is not {expected}");
        }
    }
}

pub fn moments_go_straight_into_pages(device: &Device) {
    let mut expected = Training::new(adamw(Budget::Resident), device);
    (0..3).for_each(|_| expected.step());
    let optimizer = adamw(Budget::Bytes(100_000));
    let (_, moments) = expected.outcome();
    let states = expected
        .params
        .iter()
        .zip(&moments)
        .map(|(param, moments)| Some(optimizer.restore(param, 3, moments).unwrap()))
        .collect();
    let mut restored = Training {
        optimizer,
        params: expected.params.clone(),
        states,
        step: expected.step,
    };
    assert!(restored.outcome() == expected.outcome());
    for _ in 0..2 {
        restored.step();
        expected.step();
        restored.optimizer.end_step().unwrap();
        let report = restored.optimizer.report();
        assert_eq!(
            report.bytes_moved(),
            2 * (report.state_bytes - report.resident_bytes)
        );
    }
    assert!(restored.outcome() == expected.outcome());
}

pub fn state_of_another_shape_is_refused(device: &Device) {
    let optimizer = config(Budget::Bytes(0)).build().unwrap();
    let param = crate::support::tensor(SHAPES[0], 1, device);
    let wrong = Moments::F32 {
        moment_1: vec![0.0; 5],
        moment_2: vec![0.0; 5],
    };
    let error = optimizer.restore(&param, 1, &wrong).unwrap_err();
    assert!(
        matches!(error, PagedError::Length { actual: 5, .. }),
        "{error}"
    );
    let grad = crate::support::tensor(SHAPES[1], 1, device);
    let error = optimizer.try_step(1e-3, param, grad, None).unwrap_err();
    assert!(matches!(error, PagedError::Length { .. }), "{error}");
}
