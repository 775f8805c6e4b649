//! What a file cannot say of a model.

use std::fmt;

use serde_json::{Value, json};

use crate::config::DecoderConfig;
use crate::rope::{RopeConfig, RopeScaling};

/// A difference between the model and what a file says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Loss {
    /// What differs, by its name in the configuration.
    pub key: String,
    /// The model's.
    pub value: String,
    /// The file's.
    pub said: String,
    /// Whether only texts of some length, or their ends, differ.
    pub only_of_long_texts: bool,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key, value, said, ..
        } = self;
        write!(
            f,
            "GGUF has no words for {key} {value}: llama.cpp computes with {said}"
        )?;
        if self.only_of_long_texts {
            write!(f, ", which matters in long texts only")?;
        }
        Ok(())
    }
}

/// How far two numbers may be apart that stand for one, of the greater: a file has f32, and computes some of them from others.
const TOLERANCE: f64 = 1e-6;

/// Returns where what a file says differs from the model.
pub(super) fn between(model: &DecoderConfig, said: &DecoderConfig) -> Vec<Loss> {
    let special = [
        windows(model, said),
        ends(model, said),
        rotations(model, said),
    ];
    let mut losses: Vec<Loss> = special.into_iter().flatten().collect();
    let [Value::Object(model), Value::Object(said)] = [model, said].map(plain_numbers) else {
        return losses;
    };
    for (key, value) in model {
        let other = said.get(&key).unwrap_or(&Value::Null);
        if !same(&value, other) {
            losses.push(Loss {
                key,
                value: value.to_string(),
                said: other.to_string(),
                only_of_long_texts: false,
            });
        }
    }
    losses
}

/// Returns the configuration without its name, what is compared by itself, and what llama.cpp takes from the tokenizer.
fn plain_numbers(config: &DecoderConfig) -> Value {
    let mut config = config.clone();
    config.attention_scale = Some(config.attention_scale());
    let mut values = serde_json::to_value(config).unwrap_or_default();
    if let Some(values) = values.as_object_mut() {
        for key in [
            "family",
            "layers",
            "rotations",
            "eos_token_ids",
            "bos_token_id",
        ] {
            values.remove(key);
        }
    }
    values
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => close(a, b),
        _ => match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
            }
            _ => a == b,
        },
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

fn windows(model: &DecoderConfig, said: &DecoderConfig) -> Option<Loss> {
    let windows = |config: &DecoderConfig| -> Vec<Option<usize>> {
        config.layers.iter().map(|layer| layer.window).collect()
    };
    let in_words = |config: &DecoderConfig| {
        let window = config.window().map(|window| window.to_string());
        window.unwrap_or_else(|| "none".into())
    };
    (windows(model) != windows(said)).then(|| Loss {
        key: "sliding_window".into(),
        value: in_words(model),
        said: in_words(said),
        only_of_long_texts: true,
    })
}

/// Returns the tokens that end a text and that the file does not name.
fn ends(model: &DecoderConfig, said: &DecoderConfig) -> Option<Loss> {
    let (ours, theirs) = (&model.eos_token_ids, &said.eos_token_ids);
    (!ours.iter().all(|id| theirs.contains(id))).then(|| Loss {
        key: "eos_token_id".into(),
        value: format!("{ours:?}"),
        said: format!("{theirs:?}"),
        only_of_long_texts: true,
    })
}

fn rotations(model: &DecoderConfig, said: &DecoderConfig) -> Option<Loss> {
    let of_layers = |config: &DecoderConfig| -> Vec<Option<RopeConfig>> {
        let layers = config.layers.iter();
        let rotations = layers.map(|layer| config.rotations.get(layer.rotation?).cloned());
        rotations.collect()
    };
    let mut pairs = of_layers(model).into_iter().zip(of_layers(said));
    let (ours, theirs) = pairs.find(|pair| match pair {
        (Some(ours), Some(theirs)) => !rotate_alike(ours, theirs, model.head_dim),
        (ours, theirs) => ours != theirs,
    })?;
    let dynamic =
        matches!(&ours, Some(rope) if matches!(rope.scaling, RopeScaling::Dynamic { .. }));
    Some(Loss {
        key: "rope_parameters".into(),
        value: json!(ours).to_string(),
        said: json!(theirs).to_string(),
        only_of_long_texts: dynamic,
    })
}

fn rotate_alike(a: &RopeConfig, b: &RopeConfig, head_dim: usize) -> bool {
    if same(&json!(a), &json!(b)) {
        return true;
    }
    let given_as_factors = matches!(b.scaling, RopeScaling::Factors(_))
        && matches!(
            a.scaling,
            RopeScaling::Llama3 { .. } | RopeScaling::Factors(_)
        )
        && a.rotary_dim == b.rotary_dim
        && a.query_scaling == b.query_scaling;
    let [of_a, of_b] = [a, b].map(|rope| rope.inverse_frequencies(head_dim, 1));
    let mut pairs = of_a.iter().zip(&of_b);
    given_as_factors && pairs.all(|(a, b)| close(f64::from(*a), f64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LayerConfig;

    fn config() -> DecoderConfig {
        DecoderConfig::new(8, 8, 8, 2, 2, 4, vec![LayerConfig::default(); 2])
    }

    fn keys(model: &DecoderConfig) -> Vec<(String, bool)> {
        let losses = between(model, &config()).into_iter();
        losses
            .map(|loss| (loss.key, loss.only_of_long_texts))
            .collect()
    }

    #[test]
    fn what_a_file_rounds_is_the_same() {
        let mut rounded = config().with_rms_norm_eps(f64::from(1e-5f32));
        rounded.attention_scale = Some(0.5);
        assert_eq!(keys(&rounded), []);
    }

    #[test]
    fn differences_are_told_by_their_keys() {
        assert_eq!(
            keys(&config().with_attention_scale(Some(0.4))),
            [("attention_scale".to_owned(), false)]
        );
        let mut window = config();
        window.layers[1].window = Some(4);
        assert_eq!(keys(&window), [("sliding_window".to_owned(), true)]);
        let mut dynamic = config();
        dynamic.rotations[0].scaling = RopeScaling::Dynamic {
            factor: 2.0,
            max_position_embeddings: 16.0,
        };
        assert_eq!(keys(&dynamic), [("rope_parameters".to_owned(), true)]);
        let mut unrotated = config();
        unrotated.layers[0].rotation = None;
        assert_eq!(keys(&unrotated), [("rope_parameters".to_owned(), false)]);
        let ends = config().with_eos_token_ids(vec![3]);
        assert_eq!(keys(&ends), [("eos_token_id".to_owned(), true)]);
    }
}
