//! Trainable and frozen parameters.

use crate::support::{Pair, input};
use burn::module::{Module, ParamId, list_param_ids};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Device;
use burn_qlora::{BaseWeight, LoraConfig, freeze_base, trainable};
use qlora_test_support::values;

fn words(pair: &Pair) -> Vec<i64> {
    let BaseWeight::Quantized(weight) = &pair.first.weight else {
        panic!("the first layer should be quantized");
    };
    [&weight.packed, &weight.absmax]
        .into_iter()
        .flat_map(|words| words.val().into_data().iter::<i64>().collect::<Vec<_>>())
        .collect()
}

fn with_gradient(pair: &Pair, device: &Device) -> Vec<ParamId> {
    let grads = pair.forward(input(4, device)).square().sum().backward();
    let grads = GradientsParams::from_grads(grads, pair);
    list_param_ids(pair)
        .into_iter()
        .filter(|id| grads.get::<2>(*id).is_some())
        .collect()
}

pub fn nothing_but_the_branch_ever_trains(device: &Device) {
    let pair = Pair::adapted(device, &LoraConfig::new(4, 8.0));
    let mut expected = trainable(&pair);
    expected.sort_unstable();
    assert_eq!(expected.len(), 4);
    let as_made = pair.clone();
    let unfrozen = pair.clone().unfreeze();
    let asked = pair.clone().set_require_grad(true);
    let back = freeze_base(pair.unfreeze());
    for pair in [&as_made, &unfrozen, &asked, &back] {
        let mut got = with_gradient(pair, device);
        got.sort_unstable();
        assert_eq!(got, expected);
    }
    let BaseWeight::Dense(weight) = &back.second.weight else {
        panic!("the second layer should be dense");
    };
    assert!(!weight.is_require_grad());
    assert!(back.second.adapter.unwrap().lora.a.is_require_grad());
}

pub fn an_optimizer_step_moves_the_factors_alone(device: &Device) {
    let before = Pair::adapted(device, &LoraConfig::new(4, 8.0)).unfreeze();
    let grads = before.forward(input(4, device)).square().sum().backward();
    let grads = GradientsParams::from_grads(grads, &before);
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.5).init();
    let after = optimizer.step(0.1, before.clone(), grads);

    assert_eq!(words(&after), words(&before));
    let bias = |pair: &Pair| values(pair.first.bias.as_ref().unwrap().val());
    assert_eq!(bias(&after), bias(&before));
    let dense = |pair: &Pair| {
        let mut layer = pair.second.clone();
        layer.adapter = None;
        values(layer.merged_weight())
    };
    assert_eq!(dense(&after), dense(&before));
    let a = |pair: &Pair| values(pair.first.adapter.as_ref().unwrap().lora.a.val());
    assert_ne!(a(&after), a(&before));
}

pub fn validation_and_training_keep_the_words(device: &Device) {
    let pair = Pair::adapted(device, &LoraConfig::new(4, 8.0));
    let x = input(4, device);
    let expected = values(pair.forward(x.clone()));
    let back = freeze_base(pair.valid().train());
    assert_eq!(words(&back), words(&pair));
    assert_eq!(values(back.forward(x.clone())), expected);
    let mut got = with_gradient(&back, device);
    got.sort_unstable();
    let mut ids = trainable(&pair);
    ids.sort_unstable();
    assert_eq!(got, ids);
    let moved = pair.fork(device);
    assert_eq!(values(moved.forward(x)), expected);
}
