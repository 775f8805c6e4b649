//! The names of the tensors in an adapter file.

/// What a tensor is to the layer that its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The factor that takes the layer's input, `lora_A`.
    A,
    /// The factor that gives the layer's output, `lora_B`.
    B,
    /// The factor `[rank, vocab]` of an embedding.
    EmbeddingA,
    /// The factor `[hidden, rank]` of an embedding.
    EmbeddingB,
    /// The rows of some tokens, of an embedding or a head.
    TokenRows,
    /// The layer's whole weight.
    Weight,
    /// The weight that the layer had before, beside the one that counts.
    Original,
}

/// Segments that a compiler or a trainer puts into the paths of a model's layers.
const WRAPPERS: &[&str] = &[
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// Returns the path and the part of a tensor that peft calls `name`, `None` for one that no ordinary LoRA has.
///
/// Besides `base_model.model.PATH.lora_A.weight` these are read: names without that prefix, or with `module.` or a compiler's
/// wrapper, names with the adapter's (`lora_A.default.weight`), factors without `.weight`, and whole weights in the words
/// of peft's wrappers (`modules_to_save.default.weight`).
pub(super) fn of_peft(name: &str) -> Option<(String, Part)> {
    let segments: Vec<&str> = name
        .split('.')
        .filter(|segment| !WRAPPERS.contains(segment))
        .collect();
    let segments = without_prefixes(&segments);
    let factor = segments.iter().enumerate().find_map(|(at, segment)| {
        let part = match *segment {
            "lora_A" => Part::A,
            "lora_B" => Part::B,
            "lora_embedding_A" => Part::EmbeddingA,
            "lora_embedding_B" => Part::EmbeddingB,
            _ => return None,
        };
        Some((at, part))
    });
    let (path, part) = match factor {
        Some((at, part)) => {
            let embedding = matches!(part, Part::EmbeddingA | Part::EmbeddingB);
            match segments[at + 1..] {
                [] | ["weight"] => {}
                [_adapter] if embedding => {}
                [_adapter, "weight"] if !embedding => {}
                _ => return None,
            }
            (&segments[..at], part)
        }
        None => token_rows(segments).or_else(|| whole(segments))?,
    };
    (!path.is_empty()).then(|| (path.join("."), part))
}

/// Returns the path and the part of a tensor that mlx-lm calls `name`, `None` for one that no LoRA has.
pub(super) fn of_mlx(name: &str) -> Option<(String, Part)> {
    let (path, factor) = name.rsplit_once('.')?;
    let part = match factor {
        "lora_a" => Part::A,
        "lora_b" => Part::B,
        _ => return None,
    };
    Some((path.to_owned(), part))
}

/// Takes off what peft and data parallelism put before a layer's path, however often.
fn without_prefixes<'s, 'n>(mut segments: &'s [&'n str]) -> &'s [&'n str] {
    loop {
        segments = match segments {
            ["base_model", "model", rest @ ..] => rest,
            ["module", rest @ ..] => rest,
            _ => return segments,
        };
    }
}

/// Takes apart the names of trained rows, and of the rows that they take the place of.
fn token_rows<'s, 'n>(segments: &'s [&'n str]) -> Option<(&'s [&'n str], Part)> {
    let segments = segments.strip_suffix(&["default"]).unwrap_or(segments);
    let [path @ .., "token_adapter", tensor] = segments else {
        return None;
    };
    Some(match *tensor {
        "trainable_tokens_delta" => (path, Part::TokenRows),
        "trainable_tokens_original" => (path, Part::Original),
        _ => return None,
    })
}

/// Takes apart the name of a whole weight.
fn whole<'s, 'n>(segments: &'s [&'n str]) -> Option<(&'s [&'n str], Part)> {
    let [path @ .., "weight"] = segments else {
        return None;
    };
    Some(match path {
        [path @ .., "modules_to_save"]
        | [path @ .., "modules_to_save", _]
        | [path @ .., "token_adapter", "base_layer"]
        | [path @ .., "base_layer"] => (path, Part::Weight),
        [path @ .., "original_module"] => (path, Part::Original),
        path => (path, Part::Weight),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_of_a_name() {
        for (name, path, part) in [
            (
                "base_model.model.model.layers.0.q.lora_A.weight",
                "model.layers.0.q",
                Part::A,
            ),
            (
                "base_model.model.model.layers.0.q.lora_B.default.weight",
                "model.layers.0.q",
                Part::B,
            ),
            (
                "model.layers.0.q.lora_B.weight",
                "model.layers.0.q",
                Part::B,
            ),
            (
                "base_model.model._orig_mod.model.layers.0.q.lora_A.weight",
                "model.layers.0.q",
                Part::A,
            ),
            (
                "_orig_mod.base_model.model.model.h.lora_A",
                "model.h",
                Part::A,
            ),
            (
                "module.base_model.model.model.h.lora_A.weight",
                "model.h",
                Part::A,
            ),
            (
                "base_model.model.layers.0._fsdp_wrapped_module.q.lora_A.weight",
                "layers.0.q",
                Part::A,
            ),
            (
                "base_model.model.model.e.lora_embedding_A",
                "model.e",
                Part::EmbeddingA,
            ),
            (
                "base_model.model.model.e.lora_embedding_B.default",
                "model.e",
                Part::EmbeddingB,
            ),
            ("base_model.model.lm_head.weight", "lm_head", Part::Weight),
            (
                "base_model.model.lm_head.modules_to_save.default.weight",
                "lm_head",
                Part::Weight,
            ),
            (
                "base_model.model.lm_head.modules_to_save.weight",
                "lm_head",
                Part::Weight,
            ),
            (
                "base_model.model.lm_head.base_layer.weight",
                "lm_head",
                Part::Weight,
            ),
            (
                "base_model.model.lm_head.original_module.weight",
                "lm_head",
                Part::Original,
            ),
            (
                "base_model.model.model.e.token_adapter.trainable_tokens_delta",
                "model.e",
                Part::TokenRows,
            ),
            (
                "base_model.model.model.e.token_adapter.trainable_tokens_delta.default",
                "model.e",
                Part::TokenRows,
            ),
            (
                "base_model.model.model.e.token_adapter.trainable_tokens_original",
                "model.e",
                Part::Original,
            ),
            (
                "base_model.model.model.e.token_adapter.base_layer.weight",
                "model.e",
                Part::Weight,
            ),
        ] {
            assert_eq!(of_peft(name), Some((path.to_owned(), part)), "{name}");
        }
        for name in [
            "base_model.model.q.lora_magnitude_vector",
            "base_model.model.q.lora_B.bias",
            "base_model.model.q.lora_A.default.other.weight",
            "base_model.model.q.bias",
            "base_model.model.e.token_adapter.other",
            "base_model.model.e.trainable_tokens_delta",
            "lora_A.weight",
            "weight",
            "",
        ] {
            assert_eq!(of_peft(name), None, "{name}");
        }
    }
}
