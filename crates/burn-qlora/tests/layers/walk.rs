//! The layers that the derive macros find, and their paths.

use burn::module::{Module, Param};
use burn::nn::{
    Embedding, EmbeddingConfig, Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::tensor::{Device, Tensor};
use burn_qlora::{
    AnyLinear, AnyLinearConfig, LoraConfig, LoraError, LoraLayers, LoraModel, QLoraLinear,
    QuantConfig, Targets, attach_adapters, num_adapter_params,
};

/// Everything that a module can hold layers in.
#[derive(Module, LoraModel, Debug)]
struct Model {
    embedding: Embedding,
    #[lora(name = "model.layers")]
    blocks: Vec<Block<AnyLinear>>,
    pair: (AnyLinear, QLoraLinear),
    experts: [Either; 2],
    #[lora(flatten)]
    inner: Block<Option<QLoraLinear>>,
    #[lora(skip)]
    head: Linear,
    width: usize,
    scale: Param<Tensor<1>>,
    #[module(skip)]
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings;

#[derive(Module, LoraLayers, Debug)]
struct Block<L> {
    norm: LayerNorm,
    #[lora(name = "self_attn.q_proj")]
    query: L,
    r#type: Option<AnyLinear>,
    activation: Gelu,
}

#[derive(Module, LoraLayers, Debug)]
#[allow(clippy::large_enum_variant)]
enum Either {
    Open(AnyLinear),
    Named(#[lora(name = "closed")] AnyLinear),
}

fn any(device: &Device) -> AnyLinear {
    AnyLinearConfig::new(8, 8).init(device)
}

fn frozen(device: &Device) -> QLoraLinear {
    QLoraLinear::from_linear(LinearConfig::new(8, 8).init(device), QuantConfig::default()).unwrap()
}

fn block<L>(query: L, last: Option<AnyLinear>, device: &Device) -> Block<L> {
    Block {
        norm: LayerNormConfig::new(8).init(device),
        query,
        r#type: last,
        activation: Gelu::new(),
    }
}

fn model(device: &Device) -> Model {
    Model {
        embedding: EmbeddingConfig::new(4, 8).init(device),
        blocks: vec![
            block(any(device), None, device),
            block(any(device), Some(any(device)), device),
        ],
        pair: (any(device), frozen(device)),
        experts: [Either::Open(any(device)), Either::Named(any(device))],
        inner: block(Some(frozen(device)), None, device),
        head: LinearConfig::new(8, 4).init(device),
        width: 8,
        scale: Param::from_tensor(Tensor::ones([1], device)),
        settings: Settings,
    }
}

pub fn layers_are_called_by_the_fields_that_lead_to_them(device: &Device) {
    let mut model = model(device);
    let names = |layers: Vec<(String, &QLoraLinear)>| -> Vec<String> {
        layers.into_iter().map(|(path, _)| path).collect()
    };
    // A dense layer carries no adapter.
    assert_eq!(names(model.lora_linears()), ["pair.1", "self_attn.q_proj"]);
    model.quantize(&QuantConfig::default()).unwrap();
    let expected = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.type",
        "pair.0",
        "pair.1",
        "experts.0",
        "experts.1.closed",
        "self_attn.q_proj",
    ];
    assert_eq!(names(model.lora_linears()), expected);
    let to_be_changed = model.lora_linears_mut().into_iter();
    let to_be_changed: Vec<String> = to_be_changed.map(|(path, _)| path).collect();
    assert_eq!(to_be_changed, expected);

    let targets = Targets::Names(vec!["type".into(), "closed".into()]);
    let config = LoraConfig::new(2, 4.0).with_targets(targets);
    attach_adapters(&mut model, &config, 0).unwrap();
    assert_eq!(num_adapter_params(&model), 2 * 2 * (8 + 8));
    assert!(
        model.blocks[1]
            .r#type
            .as_ref()
            .unwrap()
            .adaptable()
            .unwrap()
            .adapter
            .is_some()
    );
}

pub fn what_cannot_be_quantized_is_told(device: &Device) {
    #[derive(Module, LoraModel, Debug)]
    struct Dense {
        embedding: Embedding,
        #[lora(skip)]
        head: Linear,
    }
    let mut dense = Dense {
        embedding: EmbeddingConfig::new(4, 8).init(device),
        head: LinearConfig::new(8, 4).init(device),
    };
    let error = dense.quantize(&QuantConfig::default()).unwrap_err();
    assert!(matches!(error, LoraError::NoLayers), "{error}");
    let error = attach_adapters(&mut dense, &LoraConfig::default(), 0).unwrap_err();
    assert!(matches!(error, LoraError::NothingToAdapt), "{error}");

    let mut model = model(device);
    let unknown = Targets::Names(vec!["head".into()]);
    let error = model
        .quantize_targets(&unknown, &QuantConfig::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no linear layer is called `head`; this model has: 0, 1, closed, q_proj, type"
    );
    let odd = QuantConfig {
        block_size: 48,
        ..QuantConfig::default()
    };
    let error = model.quantize(&odd).unwrap_err();
    assert!(matches!(error, LoraError::Quantize(_)), "{error}");
    assert_eq!(model.lora_linears().len(), 2, "the model is as it was");

    let AnyLinear::Dense(linear) = &mut model.blocks[1].query else {
        panic!("the layer should be dense");
    };
    linear.weight = Param::from_tensor(Tensor::full([8, 8], f32::NAN, device));
    let error = model.quantize(&QuantConfig::default()).unwrap_err();
    assert!(
        matches!(&error, LoraError::QuantizeLayer { layer, .. } if layer == "model.layers.1.self_attn.q_proj"),
        "{error}"
    );
}
