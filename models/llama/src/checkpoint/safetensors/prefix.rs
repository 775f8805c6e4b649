//! What stands before the names of a decoder's tensors, by what was saved: a `…ForCausalLM`, its base class, or a model of
//! which the decoder is a part.

use tensor_files::TensorFile;

/// What stands before the names of the decoder below its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// `model.`, as a `…ForCausalLM` has it.
    Usual,
    /// None: a base class, such as `LlamaModel`.
    Absent,
    /// `model.language_model.`: a multimodal model, since transformers 4.52.
    Inner,
    /// `language_model.model.`, and `language_model.` before the head: a multimodal model before that.
    Outer,
}

impl Prefix {
    const ALL: [Self; 4] = [Self::Usual, Self::Inner, Self::Outer, Self::Absent];

    /// Returns the prefix that the embedding has; the usual one where there is none.
    pub(super) fn of(files: &[TensorFile]) -> Self {
        let embeds = |prefix: &Self| {
            let name = format!("{}embed_tokens.weight", prefix.text());
            files.iter().any(|file| file.tensor(&name).is_some())
        };
        Self::ALL.into_iter().find(embeds).unwrap_or(Self::Usual)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Usual => "model.",
            Self::Absent => "",
            Self::Inner => "model.language_model.",
            Self::Outer => "language_model.model.",
        }
    }

    /// Returns the name that a `…ForCausalLM` has for the tensor `stored`.
    pub(super) fn usual_name(self, stored: &str) -> String {
        let head = match self {
            Self::Outer => stored.strip_prefix("language_model."),
            _ => Some(stored),
        };
        if let Some(head) = head.filter(|name| name.starts_with("lm_head.")) {
            return head.to_owned();
        }
        match stored.strip_prefix(self.text()) {
            Some(rest) => format!("model.{rest}"),
            None => stored.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Prefix;

    #[test]
    fn every_prefix_becomes_the_usual_one() {
        for prefix in Prefix::ALL {
            let stored = format!("{}layers.0.mlp.up_proj.weight", prefix.text());
            let usual = "model.layers.0.mlp.up_proj.weight";
            assert_eq!(prefix.usual_name(&stored), usual, "{prefix:?}");
        }
        let head = "lm_head.weight";
        assert_eq!(Prefix::Absent.usual_name(head), head);
        assert_eq!(
            Prefix::Outer.usual_name("language_model.lm_head.weight"),
            head
        );
        let tower = "vision_tower.embed_tokens.weight";
        assert_eq!(Prefix::Outer.usual_name(tower), tower);
    }
}
