//! SentencePiece's pieces as byte-pair encoding with byte fallback, the way transformers converts them.
//!
//! - `merges`: the order of merging that the pieces' scores imply.

mod merges;

use tokenizers::Tokenizer;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

#[cfg(feature = "qlora")]
use super::described::{DescribedVocabulary, Source};
use super::{TokenKind, Vocabulary, bpe, bpe_error};

/// SentencePiece's visible space.
const SPACE: char = '▁';

/// Where a space is put before a text.
#[derive(Clone, Copy, PartialEq)]
enum SpacePrefix {
    /// Nowhere.
    None,
    /// Before each stretch of text between special tokens, even if it begins with a space: SentencePiece is asked for
    /// each stretch by itself.
    EachStretch,
    /// Before the whole text, unless it begins with a space or a special token.
    Text,
}

pub(super) fn build(vocabulary: &Vocabulary) -> Result<Tokenizer, String> {
    let merges = match vocabulary.listed_merges() {
        Some(merges) => merges?,
        None => merges::derived(vocabulary)?,
    };
    let unknown = vocabulary
        .unk
        .and_then(|id| vocabulary.text(id))
        .unwrap_or("<unk>");
    let model = bpe(vocabulary, merges)
        .unk_token(unknown.into())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(bpe_error)?;
    let mut tokenizer = Tokenizer::new(model);
    let prefix = space_prefix(vocabulary);
    if prefix == SpacePrefix::Text {
        let scheme = PrependScheme::First;
        tokenizer.with_pre_tokenizer(Some(Metaspace::new(SPACE, scheme, false)));
    } else {
        tokenizer
            .with_normalizer(Some(normalizer(prefix)?))
            .map_err(|error| error.to_string())?;
    }
    tokenizer.with_decoder(Some(decoder(prefix)?));
    Ok(tokenizer)
}

/// Mistral's vocabularies with control tokens for instructions are the ones that come with a chat template which
/// brings the spaces itself; their tokenizer.json says `prepend_scheme: first`. Before them, LLaMA 2, Mistral 7B v0.1
/// and Phi-3 have a normalizer that prepends, as llama.cpp does with every file.
fn space_prefix(vocabulary: &Vocabulary) -> SpacePrefix {
    if vocabulary.add_space_prefix == Some(false) {
        return SpacePrefix::None;
    }
    let mut control = vocabulary.of_kind(TokenKind::Control);
    if control.any(|(_, text)| text == "[INST]") {
        SpacePrefix::Text
    } else {
        SpacePrefix::EachStretch
    }
}

fn normalizer(prefix: SpacePrefix) -> Result<NormalizerWrapper, String> {
    let spaces = Replace::new(" ".to_owned(), SPACE).map_err(|error| error.to_string())?;
    Ok(match prefix {
        SpacePrefix::EachStretch => {
            let prepend = Prepend::new(SPACE.to_string());
            Normalizers::new(vec![prepend.into(), spaces.into()]).into()
        }
        SpacePrefix::None | SpacePrefix::Text => spaces.into(),
    })
}

fn decoder(prefix: SpacePrefix) -> Result<Decoders, String> {
    let spaces = Replace::new(SPACE.to_string(), " ").map_err(|error| error.to_string())?;
    let mut decoders: Vec<DecoderWrapper> = vec![
        spaces.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefix != SpacePrefix::None {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    Ok(Decoders::new(decoders))
}

/// Adds what such a vocabulary has beside its texts.
///
/// A tokenizer.json has the order of merging and not the scores that it came from: here a piece's score is minus the place of
/// the first merge that makes it, which gives the same order.
///
/// # Errors
/// Steps that SentencePiece does not have, or an order of merging that no scores give, in words.
#[cfg(feature = "qlora")]
pub(super) fn describe(source: &Source, described: &mut DescribedVocabulary) -> Result<(), String> {
    described.model = "llama";
    described.pre = "default";
    described.add_space_prefix = Some(adds_space(source)?);
    let unknown = source.model("unk_token").as_str();
    for (text, kind) in described.tokens.iter().zip(&mut described.kinds) {
        let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        if Some(text.as_str()) == unknown {
            *kind = TokenKind::Unknown;
        } else if is_byte && *kind == TokenKind::Normal {
            *kind = TokenKind::Byte;
        }
    }
    let merges = source.merges()?;
    let mut scores = vec![-(merges.len() as f32); described.tokens.len()];
    let ids = described.normal_ids();
    for (place, (left, right)) in merges.iter().enumerate().rev() {
        if let Some(&id) = ids.get(format!("{left}{right}").as_str()) {
            scores[id] = -(place as f32);
        }
    }
    for (score, kind) in scores.iter_mut().zip(&described.kinds) {
        match kind {
            TokenKind::Normal => {}
            TokenKind::Byte => *score = 0.0,
            // What llama.cpp's converter gives them.
            _ => *score = -1000.0,
        }
    }
    described.scores = scores;
    let implied = merges::derived(&described.vocabulary())?;
    let implied = implied
        .iter()
        .map(|(left, right)| (left.as_str(), right.as_str()));
    let ids = described.normal_ids();
    let between_normal = |part: &&str| ids.contains_key(part);
    let wanted = merges.iter().copied();
    let wanted = wanted.filter(|(left, right)| {
        [left, right, &format!("{left}{right}").as_str()]
            .into_iter()
            .all(between_normal)
    });
    if implied.eq(wanted) {
        Ok(())
    } else {
        Err(
            "its merges have an order that no scores of pieces give, as llama.cpp needs them; \
             the model's own tokenizer has one that they give"
                .into(),
        )
    }
}

/// Returns whether a space goes before a text.
#[cfg(feature = "qlora")]
fn adds_space(source: &Source) -> Result<bool, String> {
    let is = |step: &serde_json::Value, kind: &str| step["type"] == kind;
    let is_replace = |step: &serde_json::Value| {
        is(step, "Replace") && step["pattern"]["String"] == " " && step["content"] == "▁"
    };
    let normalizer = source.part("normalizer");
    let pre_tokenizer = source.part("pre_tokenizer");
    // Gemma's cuts at spaces, of which the normalizer has left none.
    let cuts_nothing = pre_tokenizer.is_null()
        || (is(pre_tokenizer, "Split") && pre_tokenizer["pattern"]["String"] == " ");
    if cuts_nothing {
        if is_replace(normalizer) {
            return Ok(false);
        }
        if let Some([prepend, replace]) = normalizer["normalizers"].as_array().map(Vec::as_slice)
            && is(prepend, "Prepend")
            && is_replace(replace)
        {
            return Ok(true);
        }
    }
    if normalizer.is_null() && is(pre_tokenizer, "Metaspace") {
        return Ok(pre_tokenizer["prepend_scheme"] != "never");
    }
    Err(format!(
        "its normalizer {} and pre-tokenizer {} are not SentencePiece's, which llama.cpp has",
        normalizer["type"], pre_tokenizer["type"]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary<'static> {
        let mut kinds = vec![TokenKind::Normal; 11];
        kinds[0] = TokenKind::Unknown;
        kinds[1..3].fill(TokenKind::Control);
        kinds[3..5].fill(TokenKind::Byte);
        Vocabulary {
            model: "llama",
            tokens: vec![
                "<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab", "▁ab",
            ],
            kinds,
            scores: vec![0., 0., 0., 0., 0., -9., -9., -9., -1., -2., -3.],
            bos: Some(1),
            eos: Some(2),
            unk: Some(0),
            ..Vocabulary::default()
        }
    }

    fn ids(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
        let tokenizer = vocabulary.build().unwrap();
        tokenizer.encode(text, true).unwrap().get_ids().to_vec()
    }

    #[test]
    fn scores_order_the_merges_and_unknown_letters_fall_back_to_bytes() {
        assert_eq!(ids(&vocabulary(), "ab"), [1, 10]);
        assert_eq!(ids(&vocabulary(), "aé</s>"), [1, 8, 3, 4, 2]);
        let tokenizer = vocabulary().build().unwrap();
        assert_eq!(tokenizer.decode(&[1, 8, 3, 4], true).unwrap(), "aé");
    }

    #[test]
    fn a_space_goes_before_each_stretch_of_text() {
        assert_eq!(ids(&vocabulary(), "a</s>a"), [1, 8, 2, 8]);
        assert_eq!(ids(&vocabulary(), " a"), [1, 5, 8]);
        assert_eq!(ids(&vocabulary(), "</s>"), [1, 2]);
        let without = Vocabulary {
            add_space_prefix: Some(false),
            ..vocabulary()
        };
        assert_eq!(ids(&without, "a</s> a"), [1, 6, 2, 8]);
    }

    #[test]
    fn where_the_template_brings_spaces_only_the_text_gets_one() {
        let mut instructed = vocabulary();
        instructed.tokens.push("[INST]");
        instructed.kinds.push(TokenKind::Control);
        instructed.scores.push(0.);
        assert_eq!(ids(&instructed, "a[INST] a[INST]a"), [1, 8, 11, 8, 11, 6]);
        assert_eq!(ids(&instructed, " a"), [1, 8]);
    }

    #[test]
    fn what_the_user_defined_is_neither_cut_nor_joined() {
        let mut gemma = vocabulary();
        gemma.tokens.extend(["  ", "   "]);
        gemma.kinds.extend([TokenKind::UserDefined; 2]);
        gemma.scores.extend([-1000.; 2]);
        gemma.add_space_prefix = Some(false);
        assert_eq!(ids(&gemma, "a  a"), [1, 6, 11, 6]);
        assert_eq!(ids(&gemma, "     b a"), [1, 12, 11, 7, 8]);
        let tokenizer = gemma.build().unwrap();
        assert_eq!(
            tokenizer.decode(&[1, 12, 11, 7, 8], true).unwrap(),
            "     b a"
        );
    }
}
