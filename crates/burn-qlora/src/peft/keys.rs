//! The keys of `adapter_config.json`: which are acted on, which may be anything, and which must be off.

use serde_json::{Map, Value};

/// How a key is taken that this crate does not act on.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It does not change what the adapter computes.
    Harmless,
    /// What it asks for is not computed; with what to do about it.
    Refused(&'static str),
    /// It may change something; the adapter is read with these words.
    Doubtful(String),
}

/// Keys that change what an adapter computes in ways this crate does not, each with the values that
/// leave it alone (besides null, false, empty lists and empty maps).
const MUST_BE_OFF: &[(&str, &[&str])] = &[
    ("alora_invocation_tokens", &[]),
    ("arrow_config", &[]),
    ("bias", &["none", "all", "lora_only"]),
    ("enable_lora", &[]),
    ("kasa_config", &[]),
    ("layer_replication", &[]),
    ("lora_bias", &[]),
    ("monteclora_config", &[]),
    ("target_parameters", &[]),
    ("use_bdlora", &[]),
    ("use_dora", &[]),
    ("use_qalora", &[]),
];

/// Keys that are acted on, and keys that say nothing about what an adapter computes. `bias` is among the others: what it stands for is in
/// the file, or not, and `fan_in_fan_out` is not for linear layers (peft puts it off with a warning).
const MAY_BE_ANYTHING: &[&str] = &[
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "trainable_token_indices",
    "use_rslora",
];

/// Ways of drawing the first factors that leave the base weight as it is (`LoraLayer.update_layer` of peft 0.21.2).
const INITIALIZATIONS: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// Returns what `key` with `value` means.
pub(super) fn judge(key: &str, value: &Value) -> Verdict {
    if key == "init_lora_weights" {
        return initialization(value);
    }
    if let Some((_, neutral)) = MUST_BE_OFF.iter().find(|(known, _)| *known == key) {
        let is_neutral = value.as_str().is_some_and(|text| neutral.contains(&text));
        return if is_off(value) || is_neutral {
            Verdict::Harmless
        } else {
            Verdict::Refused("train or convert the adapter without it")
        };
    }
    if MAY_BE_ANYTHING.contains(&key) || is_off(value) {
        return Verdict::Harmless;
    }
    if key == "velora_config" {
        let words = "`velora_config` approximates gradients in training, which is not done here";
        return Verdict::Doubtful(words.to_owned());
    }
    if value == &Value::Bool(true) {
        return Verdict::Refused(
            "it is not a key of the peft this program knows; if it does not change what the adapter computes, remove it from the file",
        );
    }
    Verdict::Doubtful(format!(
        "`{key}` is not a key of the peft this program knows and is left out; the adapter may compute something else"
    ))
}

/// PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA train what is left of a base weight from which the first factors are taken. peft takes
/// them out again, or not, when it loads such an adapter; on a 4-bit weight that cannot be done without another quantization.
fn initialization(value: &Value) -> Verdict {
    match value {
        Value::String(word) if word.eq_ignore_ascii_case("mica") => Verdict::Doubtful(
            "`init_lora_weights` is \"mica\", which trains one factor of two; here both are trained"
                .to_owned(),
        ),
        Value::String(word) if INITIALIZATIONS.contains(&word.to_ascii_lowercase().as_str()) => {
            Verdict::Harmless
        }
        Value::String(word) if word == "loftq" => Verdict::Refused(
            "it is made for base weights of its own; give the base model that was saved with it, and set the key to true",
        ),
        Value::String(_) => Verdict::Refused(
            "it changes the base weights; save the adapter with peft's save_pretrained(..., \
             path_initial_model_for_weight_conversion=INITIAL_ADAPTER), which makes an ordinary LoRA of it",
        ),
        _ => Verdict::Harmless,
    }
}

/// Returns whether `value` switches nothing on.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.values().all(is_off),
        _ => false,
    }
}

/// Returns whether these are the keys of an mlx-lm adapter.
pub(super) fn are_of_mlx(keys: &Map<String, Value>) -> bool {
    let has = |key| keys.contains_key(key);
    !has("peft_type") && (has("lora_parameters") || has("fine_tune_type"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_is_refused_when_it_may_change_what_is_computed() {
        for (key, value) in [
            ("use_dora", json!(true)),
            ("init_lora_weights", json!("pissa")),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("init_lora_weights", json!("OLoRA")),
            ("init_lora_weights", json!("corda")),
            ("init_lora_weights", json!("loftq")),
            ("init_lora_weights", json!("lora_ga")),
            ("kasa_config", json!({"beta": 0.1})),
            ("bias", json!("some")),
            ("enable_lora", json!([true, false])),
            ("use_something_new", json!(true)),
        ] {
            assert!(
                matches!(judge(key, &value), Verdict::Refused(_)),
                "{key} {value}"
            );
        }
        for (key, value) in [
            ("use_dora", json!(null)),
            ("init_lora_weights", json!("gaussian")),
            ("init_lora_weights", json!("eva")),
            ("init_lora_weights", json!("orthogonal")),
            ("init_lora_weights", json!(false)),
            ("kasa_config", json!({})),
            ("bias", json!("lora_only")),
            ("fan_in_fan_out", json!(true)),
            ("something_new", json!({"x": []})),
            ("megatron_core", json!("megatron.core")),
        ] {
            assert_eq!(judge(key, &value), Verdict::Harmless, "{key} {value}");
        }
        for (key, value) in [
            ("init_lora_weights", json!("mica")),
            ("something_new", json!({"x": 1})),
            ("something_new", json!(0.5)),
        ] {
            let verdict = judge(key, &value);
            assert!(matches!(&verdict, Verdict::Doubtful(words) if words.contains(key)));
        }
    }
}
