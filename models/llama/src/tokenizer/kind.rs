//! What a token is for.

/// The entries of `tokenizer.ggml.token_type`, which are SentencePiece's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary lacks.
    Unknown,
    /// Has a meaning and no text of its own, such as the end of a turn.
    Control,
    /// A text that is never cut, nor joined to what is beside it.
    UserDefined,
    /// Fills the vocabulary up.
    Unused,
    /// A byte, for characters that no piece has.
    Byte,
}

impl TokenKind {
    /// Returns the kind of that number in a file (llama.h, `llama_token_type`); 0 is none.
    pub(crate) fn numbered(number: usize) -> Option<Self> {
        Some(match number {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Returns its number in a file.
    #[cfg(feature = "qlora")]
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}
