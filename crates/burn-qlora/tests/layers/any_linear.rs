//! A layer that is dense first: checkpoints of Burn's `Linear` and of PyTorch's, quantized, trained and merged back.

use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, LinearLayout};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use burn_qlora::{
    AnyLinear, AnyLinearConfig, BaseWeight, LoraConfig, LoraModel, QLoraLinear, QuantConfig,
    attach_adapters, freeze_base,
};
use burn_store::{ModuleSnapshot, PyTorchToBurnAdapter, PytorchStore, SafetensorsStore};
use qlora_test_support::{Recording, fixture, tensor, values};

use crate::support::assert_close;

const IN: usize = 24;
const HIDDEN: usize = 40;
const OUT: usize = 16;

/// What a user has: a model of Burn's layers.
#[derive(Module, Debug)]
struct Dense {
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

/// The same with types changed.
#[derive(Module, LoraModel, Debug)]
struct Net {
    norm: LayerNorm,
    up: AnyLinear,
    down: AnyLinear,
}

impl Dense {
    fn new(device: &Device) -> Self {
        device.seed(5);
        Self {
            norm: LayerNormConfig::new(IN).init(device),
            up: LinearConfig::new(IN, HIDDEN).init(device),
            down: LinearConfig::new(HIDDEN, OUT).with_bias(false).init(device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down
            .forward(relu(self.up.forward(self.norm.forward(x))))
    }
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            norm: LayerNormConfig::new(IN).init(device),
            up: AnyLinearConfig::new(IN, HIDDEN).init(device),
            down: AnyLinearConfig::new(HIDDEN, OUT)
                .with_bias(false)
                .init(device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down
            .forward(relu(self.up.forward(self.norm.forward(x))))
    }
}

fn same(found: Tensor<2>, expected: Tensor<2>) {
    assert_eq!(values(found), values(expected));
}

/// Returns `‖found - expected‖ / ‖expected‖`.
fn distance(found: Tensor<2>, expected: Tensor<2>) -> f32 {
    let norm = |x: Tensor<2>| x.square().sum().sqrt().into_scalar::<f32>();
    norm(found - expected.clone()) / norm(expected)
}

pub fn what_burn_saved_of_its_own_layers_is_read(device: &Device) {
    let dense = Dense::new(device);
    let x = crate::support::input(6, device);
    let expected = dense.forward(x.clone());

    let net = Net::new(device).load_record(dense.clone().into_record());
    same(net.forward(x.clone()), expected.clone());
    assert_eq!(net.up.to_string(), dense.up.to_string());
    assert_eq!(net.num_params(), dense.num_params());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dense.bpk");
    dense.clone().into_record().save(&path).unwrap();
    let net = Net::new(device).load_record(ModuleRecord::load(&path).unwrap());
    same(net.forward(x.clone()), expected.clone());

    let path = dir.path().join("dense.safetensors");
    dense
        .save_into(&mut SafetensorsStore::from_file(&path))
        .unwrap();
    let mut net = Net::new(device);
    net.load_from(&mut SafetensorsStore::from_file(&path))
        .unwrap();
    same(net.forward(x.clone()), expected.clone());
    // And back: what is dense is a checkpoint of Burn's layers.
    let dense = Dense::new(device).load_record(net.into_record());
    same(dense.forward(x), expected);
}

/// A square weight that is saved transposed would be read as it lies without an error.
pub fn a_layer_that_is_saved_transposed_is_read_so(device: &Device) {
    device.seed(6);
    let config = LinearConfig::new(IN, IN).with_layout(LinearLayout::Col);
    let linear = config.init(device);
    let x = crate::support::input(6, device);
    let expected = linear.forward(x.clone());
    let mut layer = AnyLinear::from(config.init(device)).load_record(linear.into_record());
    same(layer.forward(x.clone()), expected.clone());
    layer.quantize(QuantConfig::default()).unwrap();
    let lost = distance(layer.forward(x), expected);
    assert!((0.02..0.2).contains(&lost), "{lost} of the output lost");
}

/// Returns what torch's model was given, and what it computed.
fn recorded(device: &Device) -> [Tensor<2>; 2] {
    let recorded = Recording::open("linear_checkpoint/outputs.safetensors");
    [("input", IN), ("output", OUT)].map(|(name, width)| {
        let values = recorded.f32(name);
        tensor(values.clone(), [values.len() / width, width], device)
    })
}

/// torch's `state_dict` in the files that hold it.
fn pytorch_checkpoints(device: &Device) -> [Net; 3] {
    let mut safetensors =
        SafetensorsStore::from_file(fixture("linear_checkpoint/model.safetensors"))
            .with_from_adapter(PyTorchToBurnAdapter);
    let mut pt = PytorchStore::from_file(fixture("linear_checkpoint/model.pt"));
    let mut pth = PytorchStore::from_file(fixture("linear_checkpoint/training.pth"))
        .with_top_level_key("model_state_dict");
    let mut nets = [(); 3].map(|()| Net::new(device));
    nets[0].load_from(&mut safetensors).unwrap();
    for (net, store) in nets[1..].iter_mut().zip([&mut pt, &mut pth]) {
        let read = net.load_from(store).unwrap();
        // Weight and bias of the norm and of `up`, and the weight of `down`.
        assert_eq!(read.applied.len(), 5, "{:?}", read.applied);
    }
    nets
}

pub fn every_file_of_pytorch_gives_the_outputs_of_torch(device: &Device) {
    let [x, y] = recorded(device);
    let [safetensors, others @ ..] = pytorch_checkpoints(device);
    let output = safetensors.forward(x.clone());
    assert_close(output.clone(), y);
    for net in others {
        same(net.forward(x.clone()), output.clone());
    }
}

/// Without the key, or with a wrong one, a file from the middle of a training is refused.
pub fn a_pytorch_file_without_the_parameters_is_refused(device: &Device) {
    let store = || PytorchStore::from_file(fixture("linear_checkpoint/training.pth"));
    for mut store in [store(), store().with_top_level_key("optimizer_state_dict")] {
        assert!(Net::new(device).load_from(&mut store).is_err());
    }
}

/// torch's `state_dict`, quantized, trained for another task, and dense again.
pub fn a_checkpoint_of_pytorch_is_quantized_trained_and_merged_back(device: &Device) {
    let [x, y] = recorded(device);
    let [_, mut net, _] = pytorch_checkpoints(device);
    assert_close(net.forward(x.clone()), y.clone());

    net.quantize(&QuantConfig::default()).unwrap();
    let quantized = net.forward(x.clone());
    // NF4 takes about a tenth of the norm of the weights, in each of the two layers.
    let lost = distance(quantized.clone(), y.clone());
    assert!((0.02..0.2).contains(&lost), "{lost} of the output lost");
    // All of it is the weights': the dense layers of the decoded values compute the same.
    let mut decoded = net.clone();
    decoded.merge();
    assert!(matches!(&decoded.up, AnyLinear::Dense(linear) if linear.bias.is_some()));
    assert_close(decoded.forward(x.clone()), quantized.clone());

    let config = LoraConfig::new(4, 8.0);
    attach_adapters(&mut net, &config, 0).unwrap();
    let mut net = freeze_base(net);
    let task = y.flip([1]);
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    let mut losses = Vec::new();
    for _ in 0..30 {
        let loss = (net.forward(x.clone()) - task.clone()).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(2e-2, net, gradients);
        losses.push(loss.into_scalar::<f32>());
    }
    assert!(losses[29] < 0.5 * losses[0], "{losses:?}");

    let adapted = net.forward(x.clone());
    net.merge();
    assert!(
        net.lora_linears().is_empty(),
        "a dense layer carries no adapter"
    );
    assert_close(net.forward(x.clone()), adapted);
    // What is merged is a layer of Burn's, all of which can train.
    let tape = net.forward(x).sum().backward();
    let AnyLinear::Dense(up) = &net.up else {
        panic!("the layer should be dense again");
    };
    assert!(up.weight.val().grad(&tape).is_some());
}

pub fn a_record_is_of_one_kind(device: &Device) {
    let mut net = Net::new(device);
    net.quantize(&QuantConfig::default()).unwrap();
    let x = crate::support::input(6, device);
    let record = net.clone().into_record();
    let error = Net::new(device)
        .try_load_record(record.clone())
        .unwrap_err();
    assert!(
        matches!(&error, RecordError::Validation(text) if text.contains("up.weight")),
        "{error}"
    );
    let mut again = Net::new(device);
    again.quantize(&QuantConfig::default()).unwrap();
    same(again.load_record(record).forward(x.clone()), net.forward(x));
}

/// A dense base that is quantized where it is has the words of one that was quantized at once, and keeps its adapter.
pub fn a_frozen_dense_base_is_quantized_too(device: &Device) {
    let linear = LinearConfig::new(IN, OUT).init(device);
    let weight = linear.weight.val().transpose().detach();
    let bias = linear.bias.as_ref().map(|bias| bias.val().detach());
    let mut net = Net::new(device);
    net.quantize(&QuantConfig::default()).unwrap();
    net.up = QLoraLinear::dense(weight, bias).into();
    attach_adapters(&mut net, &LoraConfig::new(4, 8.0), 0).unwrap();
    net.quantize(&QuantConfig::default()).unwrap();
    let at_once = QLoraLinear::from_linear(linear, QuantConfig::default()).unwrap();
    let words = |layer: &QLoraLinear| -> Vec<i64> {
        let BaseWeight::Quantized(weight) = &layer.weight else {
            panic!("the layer should be quantized");
        };
        weight.packed.val().into_data().iter::<i64>().collect()
    };
    let up = net.up.adaptable().unwrap();
    assert_eq!(words(up), words(&at_once));
    assert!(up.adapter.is_some());

    // Merged, a layer that is nothing but frozen stays frozen.
    let mut merged = up.clone();
    merged.merge();
    let x = crate::support::input(6, device);
    assert_close(merged.forward(x.clone()), up.forward(x));
    assert!(merged.adapter.is_none());
    let BaseWeight::Dense(weight) = &merged.weight else {
        panic!("the merged layer should be dense");
    };
    assert!(!weight.is_require_grad());
}
