//! The ways to a low-rank adapter, and the measure of each.

use anyhow::Result;
use burn::module::{Lora, Module, ParamGroup, QLora, Quantizer};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Tensor;
use burn::tensor::quantization::{Calibration, QuantScheme, QuantValue, ScaleDtype};
use burn_qlora::{
    AnyLinear, LayerMut, Layers, LoraConfig, LoraModel, QLoraLinear, QuantConfig, attach_adapters,
    freeze_base,
};
use qlora_test_support::CountingAllocator;

use crate::modules::WIDTH;

/// Steps that are taken before the one that is measured.
const STEPS: usize = 2;
const RANK: usize = 8;
const ALPHA: f64 = 16.0;
const LR: f64 = 1e-3;

/// A way to adapters of [`RANK`] on all layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// Factors beside frozen dense weights.
    DenseLora,
    /// Burn's reparameterization of dense weights.
    BurnLora,
    /// Burn's reparameterization of weights of 4 bits, a scale to 64.
    BurnQlora,
    /// NF4 with double quantization.
    Ours,
    /// The dense weights that `Ours` decodes to.
    Decoded,
}

impl Way {
    pub const ALL: [Self; 5] = [
        Self::DenseLora,
        Self::BurnLora,
        Self::BurnQlora,
        Self::Ours,
        Self::Decoded,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::DenseLora => "LoRA beside dense weights",
            Self::BurnLora => "Burn's `apply_lora`",
            Self::BurnQlora => "Burn's `apply_qlora`, Q4S, blocks of 64",
            Self::Ours => "QLoRA, NF4",
            Self::Decoded => "LoRA beside the dense values of NF4",
        }
    }

    /// Freezes `net` and gives its layers adapters.
    fn apply<M: Module + LoraModel>(self, mut net: M) -> Result<M> {
        let weights = Layers::of(&net).into_iter();
        let weights: Vec<_> = weights.map(|(path, _)| format!("{path}.weight")).collect();
        let layers = ParamGroup::from_paths(weights);
        let mut lora = Lora::new(RANK, ALPHA).set_param_group(layers.clone());
        // As wide as peft's uniform values are, of a layer that is `WIDTH` wide.
        lora.init_std = Some((3.0 * WIDTH as f64).powf(-0.5));
        match self {
            Self::BurnLora => return Ok(net.apply_lora(lora)),
            Self::BurnQlora => {
                let scheme = QuantScheme::default()
                    .with_value(QuantValue::Q4S)
                    .per_block([64], ScaleDtype::F32);
                let mut quantizer = Quantizer::new(Calibration::MinMax, scheme);
                quantizer.set_param_group(layers);
                return Ok(net.apply_qlora(QLora::new(lora, quantizer)));
            }
            Self::DenseLora => freeze_dense(&mut net),
            Self::Ours => net.quantize(&QuantConfig::default())?,
            Self::Decoded => {
                net.quantize(&QuantConfig::default())?;
                net.merge();
                freeze_dense(&mut net);
            }
        }
        attach_adapters(&mut net, &LoraConfig::new(RANK, ALPHA), 0)?;
        Ok(freeze_base(net))
    }
}

/// Makes layers of `net` frozen ones that can carry adapters.
fn freeze_dense<M: LoraModel>(net: &mut M) {
    for (_, layer) in Layers::of_mut(net) {
        if let LayerMut::Any(layer) = layer
            && let AnyLinear::Dense(linear) = layer
        {
            let weight = linear.weight.val().transpose().detach();
            let bias = linear.bias.as_ref().map(|bias| bias.val().detach());
            *layer = QLoraLinear::dense(weight, bias).into();
        }
    }
}

/// What a way takes, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Between steps.
    pub held: usize,
    /// The most at once during a step.
    pub peak: usize,
    /// Before the first step, and before the one that is measured.
    pub losses: [f32; 2],
}

/// Trains what `new` makes, from the same dense weights, in every way.
pub fn measure<M: Module + LoraModel>(
    new: impl Fn() -> M,
    loss: impl Fn(&M) -> Tensor<1>,
) -> Result<Vec<Measured>> {
    let dense = new().into_record();
    let run = |way: Way| -> Result<Measured> {
        let before = CountingAllocator::held();
        let mut net = Some(way.apply(new().load_record(dense.clone()))?);
        let mut optimizer = AdamWConfig::new().init();
        let (mut losses, mut held, mut peak) = (Vec::new(), 0, 0);
        for _ in 0..=STEPS {
            held = CountingAllocator::held() - before;
            peak = held
                + CountingAllocator::peak_during(|| {
                    let taken = net.take().map(|net| {
                        let loss = loss(&net);
                        losses.push(loss.clone().inner().into_scalar::<f32>());
                        let gradients = GradientsParams::from_grads(loss.backward(), &net);
                        optimizer.step(LR, net, gradients)
                    });
                    net = taken;
                });
        }
        let losses = [losses[0], losses[STEPS]];
        Ok(Measured { held, peak, losses })
    };
    // Not counted: what threads keep once they have worked.
    run(Way::Ours)?;
    Way::ALL.map(run).into_iter().collect()
}
