//! Settings of a config.json that are not understood: refused by name where they would make another model, named in a warning
//! where they are unknown, and passed where they have no effect.

use std::path::Path;

use burn_qlora_llama::DecoderConfig;
use qlora_test_support::fixture;
use serde_json::{Value, json};

/// A recorded file with keys changed.
fn read(model: &str, changes: &Value) -> Result<Vec<String>, String> {
    let path = fixture("families").join(model).join("config.json");
    let text = std::fs::read_to_string(&path).expect("reads");
    let mut object: Value = serde_json::from_str(&text).expect("JSON");
    for (key, value) in changes.as_object().expect("an object") {
        object[key] = value.clone();
    }
    DecoderConfig::from_hf_json(&object.to_string(), Path::new("config.json"))
        .map(|(_, warnings)| warnings)
        .map_err(|error| error.to_string())
}

#[track_caller]
fn assert_refused(model: &str, changes: Value, part: &str) {
    match read(model, &changes) {
        Ok(warnings) => panic!("{model} with {changes} was read; warnings: {warnings:?}"),
        Err(error) => {
            assert!(error.contains(part), "`{part}` is not in: {error}");
            assert!(
                !error.contains('\n') && error.contains("config.json"),
                "{error}"
            );
        }
    }
}

#[track_caller]
fn assert_passes(model: &str, changes: Value) {
    assert_eq!(
        read(model, &changes),
        Ok(Vec::new()),
        "{model} with {changes}"
    );
}

#[test]
fn a_switch_of_another_family_is_refused_by_name() {
    for (key, value) in [
        ("embedding_multiplier", json!(12.0)),
        ("residual_multiplier", json!(0.22)),
        ("attention_multiplier", json!(0.1)),
        ("logits_scaling", json!(8.0)),
        ("logit_scale", json!(0.0625)),
        ("final_logit_softcapping", json!(30.0)),
        ("attn_logit_softcapping", json!(50.0)),
        ("query_pre_attn_scalar", json!(256)),
        ("scale_emb", json!(12)),
        ("scale_depth", json!(1.4)),
        ("dim_model_base", json!(256)),
        ("clip_qkv", json!(8.0)),
        ("use_qk_norm", json!(true)),
        ("qk_layernorm", json!(true)),
        ("lm_head_bias", json!(true)),
        ("qkv_bias", json!(true)),
        ("sliding_window", json!(4096)),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
        ("no_rope_layers", json!([1, 1, 1, 0])),
        ("partial_rotary_factor", json!(0.5)),
        ("rope_interleaved", json!(true)),
        ("rope_local_base_freq", json!(10_000)),
        ("alibi", json!(true)),
        ("parallel_attn", json!(true)),
        ("use_parallel_residual", json!(true)),
        ("num_experts", json!(8)),
        ("num_local_experts", json!(8)),
        ("num_experts_per_tok", json!(2)),
        ("n_routed_experts", json!(64)),
        ("moe_intermediate_size", json!(768)),
        ("kv_lora_rank", json!(512)),
        ("use_bidirectional_attention", json!(true)),
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("attention_chunk_size", json!(8192)),
        ("is_encoder_decoder", json!(true)),
        ("num_nextn_predict_layers", json!(1)),
        ("qk_nope_head_dim", json!(128)),
        ("attention_value_scale", json!(0.7)),
        ("shared_intermediate_size", json!(1024)),
        ("zero_expert_num", json!(256)),
    ] {
        let mut changes = json!({});
        changes[key] = value;
        assert_refused("llama_yarn", changes, key);
    }
    assert_refused("qwen2", json!({ "attention_bias": true }), "attention_bias");
    assert_refused(
        "mistral",
        json!({ "attention_bias": true }),
        "attention_bias",
    );
    assert_refused("phi3", json!({ "mlp_bias": true }), "mlp_bias");
    assert_refused("granite", json!({ "sliding_window": 8 }), "sliding_window");
    assert_refused(
        "gemma3",
        json!({ "use_bidirectional_attention": true }),
        "use_bidirectional",
    );
}

#[test]
fn values_that_say_nothing_pass() {
    assert_passes(
        "llama_yarn",
        json!({
            "clip_qkv": null,
            "use_qk_norm": false,
            "embedding_multiplier": 1.0,
            "logits_scaling": 1,
            "num_experts": 0,
            "kv_lora_rank": null,
            "sliding_window": 4096,
            "use_sliding_window": false,
            "max_window_layers": 21,
            "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"],
            "no_rope_layers": [1, 1, 1, 1],
            "pruned_heads": {},
            "a_switch_of_next_year": false,
            "an_unknown_list": [],
            "an_unknown_name": "",
        }),
    );
}

#[test]
fn keys_without_effect_pass() {
    assert_passes(
        "llama_yarn",
        json!({
            "_name_or_path": "someone/something",
            "_attn_implementation_autoset": true,
            "auto_map": { "AutoModel": "modeling.Model" },
            "use_cache": true,
            "torch_dtype": "bfloat16",
            "pretraining_tp": 2,
            "pad_token_id": -1,
            "temperature": 0.6,
            "unsloth_version": "2025.1",
            "is_llama_config": true,
            "transformers.js_config": { "dtype": "q4" },
        }),
    );
}

#[test]
fn unknown_keys_and_dropout_are_named_in_a_warning() {
    let changes =
        json!({ "a_factor_of_next_year": 3, "attention_dropout": 0.1, "resid_pdrop": 0.0 });
    let warnings = read("llama_yarn", &changes).expect("reads");
    let [first, second] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(
        first.contains("a_factor_of_next_year") && first.contains("config.json"),
        "{first}"
    );
    assert!(
        second.contains("attention_dropout") && second.contains("0.1"),
        "{second}"
    );
}

#[test]
fn rotations_that_are_not_built_are_refused_by_name() {
    let rope = |keys: Value| json!({ "rope_parameters": keys });
    for (model, keys, part) in [
        ("llama_yarn", json!({ "rope_type": "longrope" }), "longrope"),
        (
            "llama_yarn",
            json!({ "rope_type": "proportional" }),
            "known are",
        ),
        ("llama_yarn", json!({ "rope_type": "linear" }), "factor"),
        (
            "llama_yarn",
            json!({ "rope_type": "llama3", "factor": 8.0 }),
            "llama3 without `low_freq_factor`",
        ),
        (
            "llama_yarn",
            json!({ "rope_type": "yarn" }),
            "`rope_parameters` is yarn without `factor`",
        ),
        (
            "llama_yarn",
            json!({ "rope_type": "yarn", "factor": "4" }),
            "rope_parameters.factor",
        ),
        (
            "llama_yarn",
            json!({ "rope_type": "default", "mrope_section": [4, 4, 4] }),
            "mrope_section",
        ),
        (
            "llama_yarn",
            json!({ "rope_type": "dynamic", "factor": 2.0, "alpha": 1000.0 }),
            "alpha",
        ),
        (
            "llama_yarn",
            json!({ "rope_type": "default", "llama_4_scaling_beta": 0.1 }),
            "llama_4_scaling_beta",
        ),
        (
            "llama_yarn",
            json!({ "rope_type": "default", "partial_rotary_factor": 0.5 }),
            "partial_rotary_factor",
        ),
        (
            "phi3",
            json!({ "rope_type": "linear", "factor": 2.0 }),
            "linear",
        ),
        (
            "phi3",
            json!({ "rope_type": "su", "short_factor": [1.0] }),
            "long_factor",
        ),
        (
            "phi3_longrope",
            json!({ "rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0] }),
            "short_factor",
        ),
        (
            "phi3_longrope",
            json!({ "rope_type": "longrope", "short_factor": ["a"], "long_factor": [1.0] }),
            "list of numbers",
        ),
        (
            "ministral3",
            json!({ "rope_type": "default" }),
            "llama_4_scaling_beta",
        ),
        (
            "gemma3",
            json!({ "rope_type": "linear", "factor": 8.0 }),
            "rope_parameters",
        ),
    ] {
        assert_refused(model, rope(keys), part);
    }
    assert_refused("llama_yarn", json!({ "rope_scaling": 4 }), "rope_scaling");
    let factor = rope(json!({ "rope_type": "yarn", "factor": 4.0, "attn_factor": 0.88 }));
    let warnings = read("llama_yarn", &factor).expect("reads");
    assert!(
        warnings.len() == 1 && warnings[0].contains("rope_parameters.attn_factor"),
        "{warnings:?}"
    );
    let left_over = rope(json!({ "rope_type": "default", "factor": 4.0, "rope_theta": 1e4 }));
    let warnings = read("llama_yarn", &left_over).expect("reads");
    assert!(
        warnings.len() == 1 && warnings[0].contains("rope_parameters.factor"),
        "{warnings:?}"
    );
}

#[test]
fn layers_that_contradict_the_model_are_refused() {
    let kinds = |kinds: Value| json!({ "layer_types": kinds });
    assert_refused("gemma2", kinds(json!(["full_attention"])), "layer_types");
    assert_refused("gemma2", kinds(json!([1, 2, 3, 4])), "layer_types");
    let chunked = json!([
        "full_attention",
        "chunked_attention",
        "full_attention",
        "full_attention"
    ]);
    assert_refused("gemma2", kinds(chunked), "chunked_attention");
    assert_refused(
        "qwen2",
        kinds(json!([
            "sliding_attention",
            "full_attention",
            "full_attention",
            "full_attention"
        ])),
        "layer_types",
    );
    assert_refused("gemma2", json!({ "sliding_window": null }), "layer_types");
    assert_refused("mistral", json!({ "sliding_window": 0 }), "sliding_window");
    assert_refused(
        "smollm3",
        json!({ "no_rope_layers": [1, 0] }),
        "no_rope_layers",
    );
    assert_refused(
        "smollm3",
        json!({ "no_rope_layers": [1, 0, 2, 1] }),
        "no_rope_layers",
    );
    assert_refused(
        "smollm3",
        json!({ "no_rope_layers": null, "no_rope_layer_interval": 0 }),
        "no_rope_layer_interval",
    );
    let zero = json!({ "layer_types": null, "sliding_window_pattern": 0 });
    assert_refused("gemma3", zero, "sliding_window_pattern");
}

#[test]
fn numbers_that_cannot_be_computed_with_are_refused() {
    assert_refused(
        "granite",
        json!({ "logits_scaling": 0.0 }),
        "logits_scaling",
    );
    assert_refused(
        "granite",
        json!({ "residual_multiplier": -1.0 }),
        "residual_multiplier",
    );
    assert_refused(
        "gemma2",
        json!({ "query_pre_attn_scalar": 0 }),
        "attention_multiplier",
    );
    assert_refused(
        "gemma2",
        json!({ "attn_logit_softcapping": 0.0 }),
        "attn_logit_softcapping",
    );
    assert_refused(
        "phi3",
        json!({ "rope_parameters": { "partial_rotary_factor": 1.5 } }),
        "partial_rotary_factor",
    );
    assert_refused(
        "phi3",
        json!({ "rope_parameters": { "partial_rotary_factor": 0.0 } }),
        "partial_rotary_factor",
    );
    assert_refused(
        "phi3_longrope",
        json!({ "original_max_position_embeddings": 0 }),
        "original_max_position_embeddings",
    );
    assert_refused("gemma2", json!({ "hidden_activation": "gelu" }), "gelu");
    assert_refused("gemma2", json!({ "hidden_act": "silu" }), "hidden_act");
}

#[test]
fn experts_and_contradicting_names_are_refused_by_name() {
    for (model, name) in [
        ("qwen3_moe", "Qwen3MoeForCausalLM"),
        ("mixtral", "MixtralForCausalLM"),
    ] {
        assert_refused(model, json!({}), name);
    }
    assert_refused("qwen3_moe", json!({ "architectures": null }), "qwen3_moe");
    assert_refused(
        "mistral",
        json!({ "model_type": "llama" }),
        "MistralForCausalLM",
    );
    assert_refused(
        "mistral",
        json!({ "architectures": ["MistralForSequenceClassification"] }),
        "MistralForSequenceClassification",
    );
    assert_refused(
        "gemma3",
        json!({ "architectures": ["Gemma3ForConditionalGeneration"] }),
        "text_config",
    );
}
