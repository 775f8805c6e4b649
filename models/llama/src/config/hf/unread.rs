//! What keys mean that no family asked for: nothing, something for the user to know, or another model.

use serde_json::Value;

use super::Keys;
use crate::error::DecoderError;

/// Keys without effect on what a decoder computes. A `*` stands for any text.
const WITHOUT_EFFECT: &[&str] = &[
    // Where the file comes from and how it is loaded.
    "_*",
    "name_or_path",
    "architectures",
    "model_type",
    "auto_map",
    "is_llama_config",
    "transformers.js_config",
    "transformers_version",
    "unsloth_*",
    "torch_dtype",
    "dtype",
    "torchscript",
    "use_bfloat16",
    "quantization_config",
    "quantization",
    "pretraining_tp",
    "gradient_checkpointing",
    "attn_implementation",
    "use_flash_attn",
    "use_cache",
    "cache_implementation",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "tokenizer_class",
    // Tokens that other files decide.
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    // How weights begin, and sizes that bound nothing.
    "initializer_range",
    "initializer_factor",
    "max_sequence_length",
    "model_max_length",
    "seq_length",
    // Classes of a classifier.
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "task_specific_params",
    "finetuning_task",
    // What follows from switches that are refused when they are on.
    "is_decoder",
    "max_window_layers",
    "no_rope_layer_interval",
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "decoder_sparse_step",
    "mlp_only_layers",
    "norm_topk_prob",
    "routed_scaling_factor",
    "router_scaling_factor",
    "scoring_func",
    "n_group",
    "topk_group",
    "topk_method",
    // How text is generated.
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "max_length",
    "min_length",
    "max_new_tokens",
    "num_beams",
    "num_beam_groups",
    "num_return_sequences",
    "early_stopping",
    "length_penalty",
    "diversity_penalty",
    "repetition_penalty",
    "encoder_no_repeat_ngram_size",
    "no_repeat_ngram_size",
    "chunk_size_feed_forward",
];

/// Keys that in some architecture change what is computed, with the number that means that they do not: 1 for factors, 0
/// for counts. Such a key in a family that does not read it is of another architecture.
const ANOTHER_MODEL: &[(&str, Option<f64>)] = &[
    // Factors and bounds.
    ("*_multiplier", Some(1.0)),
    ("*multipliers", None),
    ("*softcap*", None),
    ("*soft_cap*", None),
    ("logit_scale*", Some(1.0)),
    ("logits_scal*", Some(1.0)),
    ("attn_scale", Some(1.0)),
    ("attention_scale", Some(1.0)),
    ("scale_emb", Some(1.0)),
    ("scale_embedding*", None),
    ("embedding_scale", Some(1.0)),
    ("emb_scale", Some(1.0)),
    ("*_alpha_factor", Some(1.0)),
    ("*_beta_factor", Some(1.0)),
    ("attention_value_scale", Some(1.0)),
    ("residual_gate*", None),
    ("log_scaling_*", None),
    ("lambda_std_dev", None),
    ("scale_depth", None),
    ("residual_scale", Some(1.0)),
    ("dim_model_base", None),
    ("mup_*", None),
    ("use_mup", None),
    ("width_scale", Some(1.0)),
    ("query_pre_attn_scalar", None),
    ("clip_qkv", None),
    ("swiglu_*", None),
    ("attn_temperature_tuning", None),
    ("floor_scale", None),
    ("normalization_constant", None),
    // Norms.
    ("qk_*", None),
    ("*qk_norm*", None),
    ("q_norm", None),
    ("k_norm", None),
    ("norm_type", None),
    ("norm_placement", None),
    ("layernorm_type", None),
    ("normalization_function", None),
    ("apply_layernorm_1p", None),
    ("apply_residual_connection_post_layernorm", None),
    ("do_layer_norm_before", None),
    ("*post_norm", None),
    ("*pre_norm", None),
    ("norm_after", None),
    ("norm_epsilon", None),
    ("gated_norm*", None),
    ("*sandwich_norm", None),
    ("layer_norm_eps*", None),
    ("norm_eps", None),
    // Biases.
    ("*_bias", None),
    ("bias", None),
    ("add_bias_linear", None),
    ("attention_sink*", None),
    // The MLP.
    ("hidden_activation", None),
    ("activation_function", None),
    ("mlp_type", None),
    ("mlp_hidden_act", None),
    ("mlp_layer_types", None),
    ("intermediate_size_mlp", None),
    ("shared_intermediate_size", Some(0.0)),
    ("dense_intermediate_size", None),
    ("use_double_wide_mlp", None),
    ("activation_sparsity_pattern", None),
    ("relu_square*", None),
    // Positions and attention.
    ("alibi", None),
    ("use_alibi", None),
    ("position_embedding_type", None),
    ("rotary_dim", None),
    ("rotary_pct", Some(1.0)),
    ("rotary_emb*", None),
    ("rope_scaling_layers", None),
    ("layer_rope_theta", None),
    ("rope_interleave*", None),
    ("rotary_interleaved", None),
    ("rope_ratio", Some(1.0)),
    ("rope_local_base_freq", None),
    ("global_rope_theta", None),
    ("local_rope_theta", None),
    ("swa_rope_theta", None),
    ("use_mrope", None),
    ("mrope_*", None),
    ("use_rope", None),
    ("no_rope_layers", None),
    ("nope_*", None),
    ("use_dynamic_ntk", None),
    ("use_logn_attn", None),
    ("llama_4_scaling*", None),
    ("layer_types", None),
    ("sliding_window*", None),
    ("use_sliding_window", None),
    ("attention_chunk_size", Some(0.0)),
    ("attention_window*", None),
    ("attention_k_eq_v", None),
    ("attention_type*", None),
    ("attn_type", None),
    ("attn_config", None),
    ("attn_layer*", None),
    ("local_attention*", None),
    ("global_attn*", None),
    ("swa_*", None),
    ("keep_window_size", None),
    ("num_attention_heads_per_layer", None),
    ("index_*", None),
    ("indexer_*", None),
    ("prefix_lm", None),
    ("use_bidirectional_attention", None),
    ("bidirectional*", None),
    ("parallel_attn*", None),
    ("parallel_residual", None),
    ("use_parallel_residual", None),
    ("multi_query*", None),
    ("attn_output_gate", None),
    ("use_attention_gate", None),
    ("gating", None),
    ("full_attn_mod", Some(1.0)),
    ("interpolate_factor", Some(1.0)),
    ("full_attention_interval", Some(1.0)),
    ("num_kv_shared_layers", Some(0.0)),
    ("cross_*", None),
    ("add_cross_attention", None),
    ("is_encoder_decoder", None),
    ("*_lora_rank", Some(0.0)),
    ("v_head_dim", None),
    ("blocksparse*", None),
    ("dense_attention_every_n_layers", None),
    // Other blocks.
    ("*expert*", Some(0.0)),
    ("*moe*", Some(0.0)),
    ("first_k_dense_replace", Some(0.0)),
    ("mamba_*", None),
    ("ssm_*", None),
    ("conv_*", None),
    ("kda_*", None),
    ("hc_*", None),
    ("ple_*", None),
    ("*ngram*", None),
    ("lru_width", None),
    ("recurrent*", None),
    ("block_types", None),
    ("layers_block_type", None),
    ("new_decoder_architecture", None),
    ("num_dense_layers", Some(0.0)),
    ("additional_vocab_size", Some(0.0)),
    ("linear_*", None),
    ("altup_*", None),
    ("laurel_rank", None),
    ("hidden_size_per_layer_input", Some(0.0)),
    ("vocab_size_per_layer_input", Some(0.0)),
    ("per_layer_config", None),
    ("block_configs", None),
    ("num_nextn_predict_layers", Some(0.0)),
    ("num_mtp_layers", Some(0.0)),
    ("mtp_*", None),
    ("embedding_size", None),
    ("tie_encoder_decoder", None),
];

impl Keys<'_> {
    /// Judges every key that nobody asked for: passes what has no effect, warns of what is not known, refuses what would make
    /// another model.
    ///
    /// # Errors
    /// [`DecoderError::Unsupported`] naming key and value.
    pub(crate) fn judge_the_rest(&self) -> Result<(), DecoderError> {
        let windows_are_off = self.get("use_sliding_window") == Some(&Value::Bool(false));
        for (key, value) in self.unread() {
            let without_effect = is_one_of(WITHOUT_EFFECT, key)
                || is_nothing(value)
                || (key == "sliding_window" && windows_are_off)
                || (key == "layer_types" && is_all(value, &Value::from("full_attention")))
                || (key == "no_rope_layers" && is_all(value, &Value::from(1)));
            if without_effect {
                continue;
            }
            if is_dropout(key) {
                if value.as_f64() != Some(0.0) {
                    self.warn(key, &format!("is {value}; this dropout is not applied"));
                }
                continue;
            }
            let other = ANOTHER_MODEL
                .iter()
                .find(|(pattern, _)| matches(pattern, key));
            match other {
                Some((_, neutral)) if neutral.is_some() && value.as_f64() == *neutral => {}
                Some(_) => return Err(self.unsupported_setting(key, value)),
                None => self.warn(key, "is not known here and left out"),
            }
        }
        Ok(())
    }

    /// Refuses every key that nobody asked for and that says something.
    pub(crate) fn refuse_the_rest(&self) -> Result<(), DecoderError> {
        let mut rest = self.unread().into_iter();
        match rest.find(|(_, value)| !is_nothing(value)) {
            None => Ok(()),
            Some((key, value)) => Err(self.unsupported_setting(key, value)),
        }
    }
}

/// Returns whether the value switches everything off.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Returns whether the value is a list of nothing but `element`.
fn is_all(value: &Value, element: &Value) -> bool {
    let list = value.as_array();
    list.is_some_and(|list| list.iter().all(|value| value == element))
}

fn is_dropout(key: &str) -> bool {
    ["*dropout*", "*_pdrop", "layerdrop", "drop_path*"]
        .iter()
        .any(|pattern| matches(pattern, key))
}

pub(super) fn is_one_of(patterns: &[&str], key: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, key))
}

/// Returns whether `key` is of `pattern`, whose first and last character can be a `*` for any text.
fn matches(pattern: &str, key: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(rest), Some(_)) => key.contains(rest.trim_end_matches('*')),
        (Some(end), None) => key.ends_with(end),
        (None, Some(start)) => key.starts_with(start),
        (None, None) => key == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_prefixes_suffixes_and_parts() {
        assert!(matches("*_multiplier", "embedding_multiplier"));
        assert!(matches("moe_*", "moe_intermediate_size"));
        assert!(matches("*softcap*", "attn_logit_softcapping"));
        assert!(!matches("alibi", "alibi_bias_max"));
        assert!(!matches("*_bias", "bias_of"));
    }
}
