//! What the metadata of every family says in the same words.

use super::keys::GgufKeys;
use crate::config::{Biases, DecoderConfig, LayerConfig, MOST_LAYERS};
use crate::error::DecoderError;
use crate::family::Family;

impl GgufKeys<'_> {
    /// Reads the model's configuration.
    pub(super) fn read(&self) -> Result<DecoderConfig, DecoderError> {
        let config = (self.definition().read)(self)?;
        config.validate(self.file().path())?;
        Ok(config)
    }

    /// Reads dimensions, biases, head and special tokens.
    pub(crate) fn decoder(&self, family: Family) -> Result<DecoderConfig, DecoderError> {
        self.refuse_other_kinds()?;
        let hidden_size = self.size("embedding_length")?;
        let heads = self.size("attention.head_count")?;
        let head_dim = match self.integer("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden_size % heads == 0 => hidden_size / heads,
            None => return Err(self.missing("attention.key_length")),
        };
        if let Some(width) = self.integer("attention.value_length")?
            && width != head_dim
        {
            let expected = format!("the head width, {head_dim}");
            return Err(self.invalid("attention.value_length", width, &expected));
        }
        let vocab_size = match self.integer("vocab_size")? {
            Some(size) => size,
            None => self
                .file()
                .tensor_rows("token_embd.weight")
                .ok_or_else(|| self.missing("vocab_size"))?,
        };
        let layers = self.size("block_count")?;
        if layers > MOST_LAYERS {
            return Err(self.invalid("block_count", layers, "at most 2048"));
        }
        let config = DecoderConfig::new(
            vocab_size,
            hidden_size,
            self.size("feed_forward_length")?,
            heads,
            self.integer("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            vec![LayerConfig::default(); layers],
        );
        let epsilon = "attention.layer_norm_rms_epsilon";
        let has_bias = |module: &str| self.has_tensor(&format!("blk.0.{module}.bias"));
        Ok(config
            .with_family(family)
            .with_max_position_embeddings(self.size("context_length")?)
            .with_rms_norm_eps(self.number(epsilon)?.ok_or_else(|| self.missing(epsilon))?)
            .with_tie_word_embeddings(!self.has_tensor("output.weight"))
            .with_biases(Biases {
                query_key_value: has_bias("attn_q") || has_bias("attn_qkv"),
                output: has_bias("attn_output"),
                mlp: has_bias("ffn_up"),
            })
            .with_bos_token_id(self.metadata().token("tokenizer.ggml.bos_token_id")?)
            .with_eos_token_ids(self.file().end_tokens()?))
    }

    /// Refuses what is another kind of model under a known name.
    fn refuse_other_kinds(&self) -> Result<(), DecoderError> {
        if self.positive_integer("expert_count")?.is_some() {
            let found = "expert_count";
            return Err(self.unsupported("mixture of experts", found, "dense models are built"));
        }
        if self.flag("attention.causal")? == Some(false) {
            let expected = "models whose tokens see only what stands before them are built";
            return Err(self.unsupported("attention", "without a causal mask", expected));
        }
        Ok(())
    }
}
