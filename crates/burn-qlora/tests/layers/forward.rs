//! The forward pass of a layer.

use crate::support::{HIDDEN, IN, Pair, assert_close, input};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use burn_fused::{Activation, RmsNormConfig};
use burn_qlora::{
    Epilogue, LoraConfig, LoraError, LoraModel, Prologue, QLoraLinear, Targets, attach_adapters,
    merge_linears,
};
use qlora_test_support::values;

/// The dense weight `[out, in]` of the pair's quantized layer.
fn dense(pair: &Pair) -> Tensor<2> {
    let mut bare = pair.first.clone();
    bare.adapter = None;
    bare.merged_weight()
}

fn reference(pair: &Pair, x: Tensor<2>, scale: f64) -> Tensor<2> {
    let branch = pair.first.adapter.as_ref().unwrap();
    let delta = branch
        .lora
        .a
        .val()
        .matmul(branch.lora.b.val())
        .mul_scalar(scale);
    let weight = Tensor::from_inner(dense(pair)).transpose() + delta;
    x.matmul(weight) + pair.first.bias.as_ref().unwrap().val().unsqueeze()
}

pub fn a_layer_computes_base_plus_scaled_branch_plus_bias(device: &Device) {
    let pair = Pair::adapted(device, &LoraConfig::new(4, 8.0));
    let x = input(6, device);
    let expected = reference(&pair, x.clone(), 2.0);
    assert_close(pair.first.forward(x.clone()), expected.clone());
    let deep: Tensor<4> = x.reshape([1, 2, 3, IN]);
    assert_close(
        pair.first.forward(deep),
        expected.reshape([1, 2, 3, HIDDEN]),
    );
}

/// Packed, with a bias, with an adapter, dense, and without rows: each composes what no operation has in one.
pub fn a_layer_and_what_is_around_it_are_as_one_by_one(device: &Device) {
    let inner = &device.clone().without_autodiff();
    let adapted = Pair::adapted(device, &LoraConfig::new(4, 8.0)).valid();
    let bare = Pair::new(device).valid();
    let mut packed = bare.first.clone();
    packed.bias = None;
    for layer in [
        &packed,
        &bare.first,
        &adapted.first,
        &bare.second,
        &adapted.second,
    ] {
        let [out, into] = layer.shape();
        for rows in [1, 3, 0] {
            let random =
                |width| Tensor::<3>::random([rows, 1, width], Distribution::Default, inner);
            let (x, residual) = (random(into), random(out));
            let norm = Prologue::RmsNorm {
                weight: Tensor::random([into], Distribution::Default, inner),
                config: RmsNormConfig::new(1e-5),
            };
            let add = Epilogue::Add { residual };
            let glu = Epilogue::Glu {
                activation: Activation::Silu,
            };
            for (layers, epilogue) in [(vec![layer], add), (vec![layer; 2], glu)] {
                let (before, after) = (norm.clone(), epilogue.clone());
                let fused = QLoraLinear::forward_fused(&layers, x.clone(), before, after);
                let x = norm.clone().apply(x.clone());
                let products = layers.iter().map(|layer| layer.forward(x.clone()));
                let expected = epilogue.apply(products.collect());
                let [fused, expected] = [fused, expected].map(|mut ys| ys.remove(0));
                assert_close(fused, expected);
            }
        }
    }
}

pub fn rslora_scales_by_the_root_of_the_rank(device: &Device) {
    let pair = Pair::adapted(device, &LoraConfig::new(4, 8.0).with_rslora(true));
    let x = input(3, device);
    assert_close(pair.first.forward(x.clone()), reference(&pair, x, 4.0));
}

pub fn fresh_adapters_change_nothing_and_are_the_same_for_a_seed(device: &Device) {
    let bare = Pair::new(device);
    let x = input(3, device);
    let mut all = bare.clone();
    attach_adapters(&mut all, &LoraConfig::new(4, 8.0), 5).unwrap();
    assert_eq!(values(all.forward(x.clone())), values(bare.forward(x)));

    let mut one = bare.clone();
    let second = Targets::Names(vec!["second".into()]);
    attach_adapters(&mut one, &LoraConfig::new(4, 8.0).with_targets(second), 5).unwrap();
    assert!(one.first.adapter.is_none());
    let a = |pair: &Pair| values(pair.second.adapter.as_ref().unwrap().lora.a.val());
    assert_eq!(a(&one), a(&all));
    let bound = 1.0 / (HIDDEN as f32).sqrt();
    let spread: f32 = a(&all).iter().map(|a| a * a).sum::<f32>() / a(&all).len() as f32;
    assert!(a(&all).iter().all(|a| a.abs() <= bound));
    // The variance of a uniform distribution, 160 draws of it.
    assert!(
        (spread / (bound * bound / 3.0) - 1.0).abs() < 0.3,
        "{spread}"
    );

    attach_adapters(&mut one, &LoraConfig::new(4, 8.0), 6).unwrap();
    assert_ne!(a(&one), a(&all));
}

pub fn dropout_falls_on_the_branch_only_and_only_in_training(device: &Device) {
    let config = LoraConfig::new(4, 8.0);
    let still = Pair::adapted(device, &config);
    let mut shaken = still.clone();
    for ((_, shaken), (_, still)) in shaken
        .lora_linears_mut()
        .into_iter()
        .zip(still.lora_linears())
    {
        let lora = &still.adapter.as_ref().unwrap().lora;
        let config = config.clone().with_dropout(0.5);
        shaken.adapter =
            Some(burn_qlora::LoraBranch::new(lora.a.val(), lora.b.val(), &config).unwrap());
    }
    let x = input(64, device);
    let plain = x.clone().without_autodiff();

    let [got, expected] = [&shaken, &still].map(|pair| pair.first.forward(x.clone()));
    assert_ne!(values(got), values(expected.clone()));
    let valid = shaken.valid();
    assert_eq!(
        values(valid.first.forward(plain.clone())),
        values(still.valid().first.forward(plain.clone()))
    );

    // A branch that adds nothing has nothing to drop: the base saw all of x.
    let [shaken, still] = [shaken, still].map(|pair| {
        let mut layer = pair.first;
        let branch = layer.adapter.as_mut().unwrap();
        branch.lora.b = branch.lora.b.clone().map(|b| b.zeros_like());
        layer
    });
    assert_eq!(values(shaken.forward(x.clone())), values(still.forward(x)));
}

pub fn gradients_of_the_factors_are_those_of_the_dense_layer(device: &Device) {
    let pair = Pair::adapted(device, &LoraConfig::new(4, 8.0));
    let branch = pair.first.adapter.as_ref().unwrap();
    let x = input(6, device).require_grad();
    let grads_of = |y: Tensor<2>| {
        let mut grads = y.square().sum().backward();
        [
            x.grad_remove(&mut grads).unwrap(),
            branch.lora.a.val().grad_remove(&mut grads).unwrap(),
            branch.lora.b.val().grad_remove(&mut grads).unwrap(),
        ]
    };
    let got = grads_of(pair.first.forward(x.clone()));
    let expected = grads_of(reference(&pair, x.clone(), 2.0));
    for (got, expected) in got.into_iter().zip(expected) {
        let largest = values(expected.clone())
            .into_iter()
            .fold(0f32, |a, b| a.max(b.abs()));
        assert_close(got.div_scalar(largest), expected.div_scalar(largest));
    }
}

pub fn an_empty_batch_gives_an_empty_result(device: &Device) {
    let pair = Pair::adapted(device, &LoraConfig::new(4, 8.0));
    for (quantized, dense) in [
        ([2, 0], [2, 0, HIDDEN]),
        ([0, 5], [0, 5, HIDDEN]),
        ([0, 0], [0, 0, HIDDEN]),
    ] {
        let x = Tensor::<3>::zeros([quantized[0], quantized[1], IN], device);
        let y = pair.first.forward(x);
        assert_eq!(y.dims(), dense);
        assert_eq!(
            pair.second.forward(y).dims(),
            [dense[0], dense[1], crate::support::OUT]
        );
    }
    // An empty micro-batch among others takes nothing away from their gradients.
    let branch = pair.first.adapter.as_ref().unwrap();
    let empty = pair
        .first
        .forward(Tensor::<2>::zeros([0, IN], device))
        .sum();
    let mut grads = (pair.first.forward(input(3, device)).sum() + empty).backward();
    assert!(branch.lora.b.val().grad_remove(&mut grads).is_some());
}

pub fn a_rank_beyond_all_memory_is_refused(device: &Device) {
    let before = Pair::adapted(device, &LoraConfig::new(4, 8.0));
    let ranks = |pair: &Pair| {
        let linears = pair.lora_linears().into_iter();
        let ranks = linears.map(|(_, linear)| linear.adapter.as_ref().unwrap().rank());
        ranks.collect::<Vec<_>>()
    };
    for rank in [0, (1 << 20) + 1, 1 << 58, usize::MAX] {
        let mut pair = before.clone();
        let config = LoraConfig::new(rank, 8.0);
        let error = attach_adapters(&mut pair, &config, 5).unwrap_err();
        assert!(
            matches!(&error, LoraError::InvalidConfig { field: "rank", .. }),
            "{error}"
        );
        assert_eq!(ranks(&pair), ranks(&before));
    }
    // 1e300 / 4 is beyond f32, 1e-60 / 4 would train nothing.
    for alpha in [1e300, -1e300, 1e-60, f64::NAN, f64::INFINITY] {
        let error = LoraConfig::new(4, alpha).validate().unwrap_err();
        assert!(
            matches!(&error, LoraError::InvalidConfig { field: "alpha", .. }),
            "{error}"
        );
    }
}

pub fn merging_gives_the_weight_the_layer_acts_as(device: &Device) {
    let pair = Pair::adapted(device, &LoraConfig::new(4, 8.0));
    let x = input(5, device).without_autodiff();
    let mut merged = Vec::new();
    merge_linears(&pair, |path, weight| {
        merged.push((path.to_owned(), weight));
        Ok::<(), ()>(())
    })
    .unwrap();
    assert_eq!(merged[0].0, "block.first");
    let bias = pair.valid().first.bias.unwrap().val();
    assert_close(
        x.clone().matmul(merged[0].1.clone().transpose()) + bias.unsqueeze(),
        pair.valid().first.forward(x),
    );
    assert_eq!(
        merge_linears(&pair, |path, _| Err(path.to_owned())),
        Err("block.first".to_owned())
    );
}
