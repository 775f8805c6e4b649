//! What a config.json means, for every family: the words of transformers 4 and 5, absent keys, and the way back.

use std::path::{Path, PathBuf};

use burn_qlora_llama::rope::{QueryScaling, RopeScaling};
use burn_qlora_llama::{DecoderConfig, Family, NormPlacement, QueryKeyNorm};
use qlora_test_support::{FAMILIES, fixture};
use serde_json::{Value, json};

fn path(model: &str, file: &str) -> PathBuf {
    fixture("families").join(model).join(file)
}

fn recorded(model: &str, file: &str) -> Value {
    let path = path(model, file);
    let text = std::fs::read_to_string(&path).expect("reads");
    serde_json::from_str(&text).expect("JSON")
}

fn read(object: &Value) -> (DecoderConfig, Vec<String>) {
    let read = DecoderConfig::from_hf_json(&object.to_string(), Path::new("config.json"));
    read.unwrap_or_else(|error| panic!("{error}: {object:#}"))
}

fn config(model: &str) -> DecoderConfig {
    read(&recorded(model, "config.json")).0
}

/// The tokens of a text's ends aside, which the files differ in.
fn without_tokens(config: DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        ..config
    }
}

#[test]
fn both_spellings_mean_the_same() {
    for model in FAMILIES {
        let (new, warnings) = read(&recorded(model, "config.json"));
        assert!(warnings.is_empty(), "{model}: {warnings:?}");
        let (wild, warnings) = read(&recorded(model, "config_wild.json"));
        // Granite's file has the dropout of its pretraining, as published ones do.
        let dropout = warnings
            .iter()
            .all(|text| text.contains("attention_dropout"));
        assert!(dropout, "{model}: {warnings:?}");
        assert_eq!(warnings.len(), usize::from(model == "granite"));
        assert_eq!(without_tokens(new), without_tokens(wild), "{model}");
    }
}

#[test]
fn what_is_written_reads_back_equal() {
    for model in FAMILIES {
        let original = config(model);
        let path = path(model, "config.json");
        let written = original.to_hf_json("bfloat16", &path).expect("can be said");
        let (again, warnings) = read(&written);
        assert_eq!(again, original, "{model}");
        assert!(warnings.is_empty(), "{model}: {warnings:?}");
        // Whatever the recorded file says is said again, but for what has no effect.
        for (key, value) in recorded(model, "config.json")
            .as_object()
            .expect("an object")
        {
            let without_effect = [
                "_sliding_window_pattern",
                "attention_dropout",
                "embd_pdrop",
                "initializer_range",
                "max_window_layers",
                "no_rope_layer_interval",
                "original_max_position_embeddings",
                "pad_token_id",
                "pretraining_tp",
                "resid_pdrop",
                "rope_parameters",
                "transformers_version",
                "use_bidirectional_attention",
                "use_cache",
            ];
            if !without_effect.contains(&key.as_str()) {
                assert_eq!(&written[key], value, "{model}: {key}");
            }
        }
    }
}

#[test]
fn families_are_what_they_are() {
    let windows = |config: &DecoderConfig| -> Vec<_> {
        config.layers.iter().map(|layer| layer.window).collect()
    };
    let rotations = |config: &DecoderConfig| -> Vec<_> {
        config.layers.iter().map(|layer| layer.rotation).collect()
    };
    assert_eq!(windows(&config("mistral")), [Some(8); 4]);
    assert_eq!(windows(&config("qwen2")), [None; 4]);
    assert!(config("qwen2").biases.query_key_value && !config("qwen2").biases.output);
    let qwen3 = config("qwen3");
    assert_eq!(
        (qwen3.query_key_norm, qwen3.head_dim),
        (Some(QueryKeyNorm::Head), 32)
    );
    let smollm3 = config("smollm3");
    assert_eq!(rotations(&smollm3), [Some(0), Some(0), Some(0), None]);
    let granite = config("granite");
    let factors = [
        granite.embedding_multiplier,
        granite.residual_multiplier,
        granite.attention_scale(),
        granite.logits_scale,
    ];
    assert_eq!(factors, [3.0, 0.6, 0.1, 0.4]);
    let phi3 = config("phi3");
    assert!(phi3.fused_projections);
    assert_eq!(phi3.rotations[0].rotary_dim, Some(8));
    let olmo2 = config("olmo2");
    assert_eq!(olmo2.norm_placement, NormPlacement::After);
    assert_eq!(olmo2.query_key_norm, Some(QueryKeyNorm::Width));
    let gemma2 = config("gemma2");
    assert_eq!(windows(&gemma2), [Some(8), None, Some(8), None]);
    assert_eq!(gemma2.norm_placement, NormPlacement::Around);
    assert_eq!(
        (gemma2.attention_softcap, gemma2.logits_softcap),
        (Some(3.0), Some(4.0))
    );
    assert_eq!(gemma2.attention_scale(), 20f64.powf(-0.5));
    let gemma3 = config("gemma3");
    assert_eq!(gemma3.layers.len(), 6);
    assert_eq!(windows(&gemma3)[4..], [Some(8), None]);
    assert_eq!(rotations(&gemma3)[4..], [Some(1), Some(0)]);
    assert_eq!(
        gemma3.rotations[0].scaling,
        RopeScaling::Linear { factor: 4.0 }
    );
    assert_eq!(gemma3.rotations[1].theta, 1e4);
    assert!(gemma3.norm_unit_offset && gemma3.embedding_multiplier == 8.0);
}

#[test]
fn scalings_are_completed_as_transformers_does() {
    let RopeScaling::Yarn {
        factor,
        beta_slow,
        attention_factor,
        truncate,
        ..
    } = config("llama_yarn").rotations[0].scaling
    else {
        panic!("yarn");
    };
    assert_eq!((factor, beta_slow, truncate), (4.0, 1.0, true));
    assert_eq!(attention_factor, 0.1 * 4f64.ln() + 1.0);
    let ministral3 = config("ministral3");
    let RopeScaling::Yarn {
        attention_factor, ..
    } = ministral3.rotations[0].scaling
    else {
        panic!("yarn");
    };
    assert_eq!(attention_factor, 1.0);
    let scaling = QueryScaling {
        beta: 0.3,
        original_max_position_embeddings: 8.0,
    };
    assert_eq!(ministral3.rotations[0].query_scaling, Some(scaling));
    let RopeScaling::LongRope {
        attention_factor, ..
    } = config("phi3_longrope").rotations[0].scaling
    else {
        panic!("longrope");
    };
    assert_eq!(attention_factor, (1.0 + 4f64.ln() / 16f64.ln()).sqrt());
    let dynamic = RopeScaling::Dynamic {
        factor: 4.0,
        max_position_embeddings: 16.0,
    };
    assert_eq!(config("llama_dynamic").rotations[0].scaling, dynamic);
}

/// The sizes of a model, and what `more` adds to them or removes.
fn sized(model_type: &str, more: Value) -> Value {
    let mut object = json!({
        "model_type": model_type,
        "vocab_size": 32,
        "hidden_size": 64,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
    });
    for (key, value) in more.as_object().expect("an object") {
        object[key] = value.clone();
    }
    object
}

#[test]
fn absent_keys_have_the_defaults_of_the_class() {
    let of = |model_type: &str, more: Value| read(&sized(model_type, more)).0;
    let mistral = of("mistral", json!({}));
    assert_eq!(
        (mistral.num_key_value_heads, mistral.window()),
        (8, Some(4096))
    );
    let mistral = of(
        "mistral",
        json!({ "sliding_window": null, "num_key_value_heads": null }),
    );
    assert_eq!((mistral.num_key_value_heads, mistral.window()), (32, None));
    assert_eq!(of("qwen3", json!({})).head_dim, 128);
    assert_eq!(of("smollm3", json!({})).rotations[0].theta, 2e6);
    assert!(of("smollm3", json!({})).tie_word_embeddings);
    assert_eq!(of("olmo2", json!({})).rms_norm_eps, 1e-5);
    let gemma2 = of("gemma2", json!({}));
    assert_eq!(
        (gemma2.attention_softcap, gemma2.logits_softcap),
        (Some(50.0), Some(30.0))
    );
    let null = json!({ "attn_logit_softcapping": null, "final_logit_softcapping": null });
    let gemma2 = of("gemma2", null);
    assert_eq!(
        (gemma2.attention_softcap, gemma2.logits_softcap),
        (None, None)
    );
    let ministral3 = of("ministral3", json!({}));
    assert_eq!(
        (ministral3.rotations[0].theta, ministral3.head_dim),
        (1e6, 128)
    );
    assert_eq!(
        ministral3.rotations[0]
            .query_scaling
            .map(|scaling| scaling.beta),
        Some(0.1)
    );
    let llama = of("llama", json!({}));
    assert_eq!(
        (llama.max_position_embeddings, llama.rms_norm_eps),
        (2048, 1e-6)
    );
    let gemma = of("gemma", json!({ "hidden_act": "gelu" }));
    assert_eq!(gemma.activation, of("gemma", json!({})).activation);
    assert_eq!(gemma.embedding_multiplier, 8.0);
}

trait Window {
    fn window(&self) -> Option<usize>;
}

impl Window for DecoderConfig {
    fn window(&self) -> Option<usize> {
        self.layers[0].window
    }
}

#[test]
fn the_upper_layers_of_qwen_slide_if_the_switch_is_on() {
    for file in ["config.json", "config_wild.json"] {
        let mut object = recorded("qwen2", file);
        object["use_sliding_window"] = json!(true);
        object["sliding_window"] = json!(8);
        object["max_window_layers"] = json!(2);
        object
            .as_object_mut()
            .expect("an object")
            .remove("layer_types");
        let (config, _) = read(&object);
        let windows: Vec<_> = config.layers.iter().map(|layer| layer.window).collect();
        assert_eq!(windows, [None, None, Some(8), Some(8)]);
    }
}

#[test]
fn first_names_of_llama_are_known() {
    let first = json!({
        "architectures": ["LLaMAForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "max_sequence_length": 2048,
        "pad_token_id": -1,
        "rms_norm_eps": 1e-06,
        "torch_dtype": "float16",
    });
    let (config, warnings) = read(&sized("llama", first));
    assert_eq!(config.family, Family::Llama);
    assert!(warnings.is_empty(), "{warnings:?}");
    let base = json!({ "architectures": ["LlamaModel"] });
    assert_eq!(read(&sized("llama", base)).0.family, Family::Llama);
}

#[test]
fn a_decoder_inside_a_multimodal_model_is_read_and_the_rest_is_said_to_be_left_out() {
    // As sparse as published files are.
    let gemma3 = json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": 255_999,
        "eoi_token_index": 256_000,
        "eos_token_id": [1, 106],
        "image_token_index": 262_144,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": { "factor": 8.0, "rope_type": "linear" },
            "sliding_window": 1024
        },
        "torch_dtype": "bfloat16",
        "vision_config": { "hidden_size": 1152, "model_type": "siglip_vision_model" }
    });
    let (config, warnings) = read(&gemma3);
    assert_eq!(config.family, Family::Gemma3);
    assert_eq!(
        (config.vocab_size, config.num_attention_heads),
        (262_208, 8)
    );
    assert_eq!((config.num_key_value_heads, config.head_dim), (4, 256));
    assert_eq!(
        config.rotations[0].scaling,
        RopeScaling::Linear { factor: 8.0 }
    );
    assert_eq!(config.eos_token_ids, [1, 106]);
    assert!(config.tie_word_embeddings);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("images"), "{warnings:?}");

    let mut text = recorded("ministral3", "config.json");
    text.as_object_mut()
        .expect("an object")
        .remove("architectures");
    let ministral3 = json!({
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "image_token_index": 10,
        "multimodal_projector_bias": false,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "text_config": text,
        "vision_config": { "model_type": "pixtral" },
        "vision_feature_layer": -1
    });
    let (nested, warnings) = read(&ministral3);
    assert_eq!(nested, config_of_ministral3());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

fn config_of_ministral3() -> DecoderConfig {
    config("ministral3")
}
