//! Layers on the device of a server: one of this process, over a websocket on the loopback.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::thread;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::server::{RemoteServer, WebSocketTransport};
use burn::tensor::remote::RemoteHost;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_fused::{LogitsConfig, RmsNormConfig};
use burn_nf4::BlockwiseTensor;
use burn_paged::{PagedAdamWConfig, PagedError};
use burn_qlora::{
    AnyLinear, LoraConfig, LoraModel, QLoraLinear, QuantConfig, attach_adapters, freeze_base,
};
use qlora_test_support::random::{gguf_blocks, normal};

use crate::here::{self, Here};
use crate::step::{Case, Named, WIDTH, bits, cases, forward, tensor};

/// The server's device. It serves as long as the process lives.
fn remote() -> Device {
    static HOST: OnceLock<RemoteHost> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = RemoteHost::websocket(&format!("ws://{}", listener.local_addr().unwrap()));
        let server =
            RemoteServer::new([here::device()]).with_custom_ops::<Here>(here::operations());
        thread::spawn(move || server.serve(WebSocketTransport::from_listener(listener)));
        host
    });
    Device::remote_options(host).init().unwrap()
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    bits(&tensor.clone(), tensor.into_data())
}

/// The loss, and the gradients of what it is of, without autodiff.
fn step(case: Case, device: &Device) -> Named<1> {
    let (loss, leaves) = forward(case, &device.clone().autodiff());
    let gradients = loss.backward();
    let mut found = vec![("loss", loss.inner())];
    found.extend(leaves.into_iter().map(|(name, leaf)| {
        let gradient = leaf.grad(&gradients).unwrap();
        (name, gradient.flatten(0, 1))
    }));
    found
}

#[test]
fn a_step_on_a_server_has_the_bits_of_one_here() {
    for case in cases() {
        let (there, expected) = (step(case, &remote()), step(case, &here::device()));
        assert_eq!(there.len(), expected.len());
        for ((name, there), (_, expected)) in there.into_iter().zip(expected) {
            let expected = read(expected);
            assert!(expected.iter().any(|bits| *bits != 0), "{name}");
            assert_eq!(read(there), expected, "{case:?}: {name}");
        }
    }
}

/// A gated block beside a residual stream.
#[derive(Module, LoraModel, Debug)]
struct Block {
    gate: AnyLinear,
    up: AnyLinear,
    down: AnyLinear,
}

impl Block {
    /// A dense one.
    fn new(device: &Device) -> Self {
        let linear = |seed, [out_features, in_features]: [usize; 2]| {
            let weight = tensor(seed, [out_features, in_features], device) * 0.1;
            AnyLinear::from(QLoraLinear::dense(weight, None))
        };
        Self {
            gate: linear(1, [2 * WIDTH, WIDTH]),
            up: linear(2, [2 * WIDTH, WIDTH]),
            down: linear(3, [WIDTH, 2 * WIDTH]),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let norm = Tensor::ones([WIDTH], &x.device());
        let normed = burn_fused::rms_norm(x.clone(), norm, RmsNormConfig::new(1e-5));
        let gated = burn_fused::swiglu(self.gate.forward(normed.clone()), self.up.forward(normed));
        x + self.down.forward(gated)
    }
}

/// The losses of steps of QLoRA with Burn's own optimizer.
fn train(steps: usize, device: &Device) -> Vec<f32> {
    const TOKENS: usize = 12;
    let device = device.clone().autodiff();
    let mut block = Block::new(&device);
    block.quantize(&QuantConfig::default()).unwrap();
    attach_adapters(&mut block, &LoraConfig::new(4, 8.0), 0).unwrap();
    let mut block = freeze_base(block);
    let (x, head) = (
        tensor(4, [TOKENS, WIDTH], &device),
        tensor(5, [TOKENS, WIDTH], &device) * 0.1,
    );
    let targets: Vec<i64> = (0..TOKENS as i64).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [TOKENS]), &device);
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..steps {
        let hidden = block.forward(x.clone());
        let config = LogitsConfig::default();
        let loss = burn_fused::linear_cross_entropy(hidden, head.clone(), targets.clone(), config);
        let gradients = GradientsParams::from_grads(loss.backward(), &block);
        block = optimizer.step(1e-2, block, gradients);
        losses.push(loss.into_scalar::<f32>());
    }
    losses
}

#[test]
fn training_on_a_server_has_the_losses_of_training_here() {
    let (there, expected) = (train(6, &remote()), train(6, &here::device()));
    assert_eq!(there, expected);
    assert!(expected[5] < 0.9 * expected[0], "{expected:?}");
}

#[test]
fn words_go_to_a_server_and_come_back_in_every_format() {
    let dense = normal(21, 6 * 256, 1.0);
    let quantized = nf4::Codebook::ALL.into_iter().flat_map(|codebook| {
        [true, false].map(|double_quant| QuantConfig {
            codebook,
            block_size: 128,
            double_quant,
        })
    });
    let mut matrices = Vec::new();
    for config in quantized {
        let matrix = nf4::reference::quantize(&dense, [6, 256], config).unwrap();
        let weight = Tensor::from_data(TensorData::new(dense.clone(), [6, 256]), &remote());
        let there = BlockwiseTensor::quantize(weight, config).unwrap();
        assert_eq!(there.into_host().unwrap(), matrix, "{config:?}");
        matrices.push(matrix);
    }
    matrices.extend(nf4::GgufFormat::ALL.map(|format| {
        let blocks = 6 * 256 / format.file_block();
        let bytes = gguf_blocks(11, format.name(), format.file_block_bytes(), blocks);
        nf4::gguf::read(format, [6, 256], &bytes, |row| row).unwrap()
    }));
    for matrix in matrices {
        let what = format!("{:?}", matrix.layout().format());
        let [there, expected] = [remote(), here::device()].map(|device| {
            let weight = BlockwiseTensor::from_host(&matrix, &device);
            let y = weight.matmul(tensor(22, [3, 256], &device));
            let back = weight.matmul_transposed(y.clone());
            let values = [read(weight.dequantize()), read(y), read(back)];
            (values, weight.into_host().unwrap())
        });
        assert_eq!(there, expected, "{what}");
        assert_eq!(there.1, matrix, "{what}");
    }
}

#[test]
fn the_paged_optimizer_refuses_a_servers_device() {
    let optimizer = PagedAdamWConfig::new().build().unwrap();
    let x = || Tensor::<2>::ones([2, 4], &remote());
    let error = optimizer.try_step(1e-3, x(), x(), None).unwrap_err();
    assert!(matches!(error, PagedError::Unserved(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with("burn-paged has nothing for the backend of Device<Remote"),
        "{text}"
    );
    assert!(text.ends_with(": use another device"), "{text}");
    assert!(!text.contains('\n'), "{text}");
}
