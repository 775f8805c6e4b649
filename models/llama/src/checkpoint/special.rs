//! Special tokens as plain data.

/// A token with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its text, as chat templates insert it.
    pub text: String,
}

/// The tokens of a model that have a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<SpecialToken>,
    /// Ends a text or a turn.
    pub eos: Option<SpecialToken>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<SpecialToken>,
    /// Fills rows up.
    pub pad: Option<SpecialToken>,
    /// Whether the tokenizer puts `bos` in front of a text when asked to add special tokens.
    pub add_bos: bool,
    /// Whether it puts `eos` behind.
    pub add_eos: bool,
}
