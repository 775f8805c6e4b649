//! The ways in which models cut a text into the words that merging works on.
//!
//! The names are those of llama.cpp (llama-vocab.cpp), which takes some expressions in words that its own engine
//! understands. Here they are as the models' tokenizer.json has them.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

/// A pre-tokenizer, and what else its name says.
pub(super) struct PreTokenizer {
    /// The values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    /// One cut after the other, each within the words that those before it left.
    cuts: &'static [Cut],
    /// Whether text is brought to Unicode's composed form (NFC) first.
    pub composes: bool,
    /// Whether a word that is a token is taken whole, though merging might not arrive at it.
    pub takes_whole_words: bool,
    /// Whether bos goes in front of a text when the file does not say.
    pub adds_bos: bool,
}

enum Cut {
    /// Every digit by itself.
    Digits,
    /// GPT-2's expression, which is ByteLevel's own. It comes last.
    Gpt2,
    /// What an expression matches, and what lies between two matches.
    Regex(&'static str),
}

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// In numbers, for some of the letters have others for their composed form.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+";

const DEEPSEEK_SYLLABLES: &str = r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+";

/// One that only cuts.
const fn plain(names: &'static [&'static str], cuts: &'static [Cut]) -> PreTokenizer {
    PreTokenizer {
        names,
        cuts,
        composes: false,
        takes_whole_words: false,
        adds_bos: false,
    }
}

/// One whose tokenizer composes text first.
const fn composing(names: &'static [&'static str], cuts: &'static [Cut]) -> PreTokenizer {
    PreTokenizer {
        composes: true,
        ..plain(names, cuts)
    }
}

/// One of a vocabulary made by tiktoken's rules: words that are tokens are taken whole, and bos goes in front.
const fn whole(names: &'static [&'static str], cuts: &'static [Cut]) -> PreTokenizer {
    PreTokenizer {
        takes_whole_words: true,
        adds_bos: true,
        ..plain(names, cuts)
    }
}

const KNOWN: &[PreTokenizer] = &[
    whole(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        &[Cut::Regex(CL100K)],
    ),
    // OLMo 2 and Phi-4 are "dbrx".
    plain(&["dbrx"], &[Cut::Regex(CL100K)]),
    // LLaMA 3's vocabulary without its bos: Smaug, SmolLM3. 588 of its words are reached only if they are taken whole, as tiktoken
    // does with every vocabulary; llama.cpp does not under this name.
    PreTokenizer {
        takes_whole_words: true,
        ..plain(&["smaug-bpe"], &[Cut::Regex(CL100K)])
    },
    composing(
        &["qwen2", "deepseek-r1-qwen", "megrez"],
        &[Cut::Regex(QWEN2)],
    ),
    plain(&["stablelm2", "kormo"], &[Cut::Regex(QWEN2)]),
    whole(&["tekken"], &[Cut::Regex(TEKKEN)]),
    // Phi-4-mini is "gpt-4o".
    plain(&["gpt-4o", "llama4", "kanana2"], &[Cut::Regex(O200K)]),
    // Granite 3 is "refact".
    plain(
        &[
            "smollm",
            "starcoder",
            "refact",
            "codeshell",
            "exaone",
            "minerva-7b",
        ],
        &[Cut::Digits, Cut::Gpt2],
    ),
    composing(&["command-r"], &[Cut::Digits, Cut::Gpt2]),
    plain(
        &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "jina-es",
            "jina-de",
            "a.x-4.0",
            "mellum",
            "granite-docling",
        ],
        &[Cut::Gpt2],
    ),
    composing(&["olmo", "mpt"], &[Cut::Gpt2]),
    plain(&["seed-coder"], &[Cut::Regex(SEED)]),
    plain(
        &["deepseek-llm"],
        &[
            Cut::Regex(r"[\r\n]"),
            Cut::Regex(DEEPSEEK_LETTERS),
            Cut::Regex(
                r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+",
            ),
            Cut::Regex(r"\s+$"),
            Cut::Regex(DEEPSEEK_SYLLABLES),
            Cut::Digits,
        ],
    ),
    plain(
        &["deepseek-coder"],
        &[
            Cut::Regex(r"[\r\n]"),
            Cut::Regex(r"\s?\p{L}+"),
            Cut::Regex(r"\s?\p{P}+"),
            Cut::Regex(DEEPSEEK_SYLLABLES),
            Cut::Digits,
        ],
    ),
    plain(
        &["deepseek-v3", "hunyuan-dense"],
        &[
            Cut::Regex(r"\p{N}{1,3}"),
            Cut::Regex(r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+"),
            Cut::Regex(DEEPSEEK_V3),
        ],
    ),
    // What llama.cpp makes of a model that nobody has described to it.
    plain(
        &["default"],
        &[
            Cut::Regex(r"[\p{P}\$\+<=>\^~\|]+"),
            Cut::Regex(GPT2),
            Cut::Regex(r"\p{N}+"),
            Cut::Regex("[0-9][0-9][0-9]"),
        ],
    ),
];

impl PreTokenizer {
    /// Returns the one of that name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.names.contains(&name))
    }

    /// Returns all names, in a sentence.
    pub(super) fn names() -> String {
        let names = KNOWN.iter().flat_map(|known| known.names);
        names.copied().collect::<Vec<_>>().join(", ")
    }

    /// Returns it as a step of a tokenizer, which also writes bytes as the letters that stand for them.
    pub(super) fn build(&self) -> Result<PreTokenizerWrapper, String> {
        let mut steps = Vec::new();
        let mut gpt2 = false;
        for cut in self.cuts {
            match cut {
                Cut::Digits => steps.push(Digits::new(true).into()),
                Cut::Gpt2 => gpt2 = true,
                Cut::Regex(expression) => {
                    let pattern = SplitPattern::Regex((*expression).into());
                    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                        .map_err(|error| error.to_string())?;
                    steps.push(split.into());
                }
            }
        }
        let bytes = ByteLevel::new(false, true, gpt2);
        if steps.is_empty() {
            return Ok(bytes.into());
        }
        steps.push(bytes.into());
        Ok(Sequence::new(steps).into())
    }
}

/// A pre-tokenizer whose name is looked for.
#[cfg(feature = "qlora")]
pub(super) struct Wanted {
    /// As [`cuts`] gives them.
    pub cuts: Vec<String>,
    pub composes: bool,
    pub takes_whole_words: bool,
    pub adds_bos: bool,
}

#[cfg(feature = "qlora")]
impl Wanted {
    /// Returns its name. Whether bos goes in front chooses among those that cut alike, and no more: a file says it by itself.
    ///
    /// # Errors
    /// The cuts, in words, where llama.cpp has no name for them.
    pub(super) fn name(&self) -> Result<&'static str, String> {
        let same = |known: &&PreTokenizer| {
            let cuts = known.cuts.iter().map(Cut::in_words);
            cuts.eq(self.cuts.iter().cloned())
                && known.composes == self.composes
                && known.takes_whole_words == self.takes_whole_words
        };
        let mut found: Vec<_> = KNOWN.iter().filter(same).collect();
        found.sort_by_key(|known| known.adds_bos != self.adds_bos);
        let name = found.first().and_then(|known| known.names.first());
        name.copied().ok_or_else(|| {
            let yes = |flag, word| if flag { word } else { "" };
            format!(
                "its pre-tokenizer is none that llama.cpp has a name for here: it cuts by {:?}{}{}",
                self.cuts.join(", then "),
                yes(self.composes, ", after NFC"),
                yes(
                    self.takes_whole_words,
                    ", and takes words that are tokens whole"
                ),
            )
        })
    }
}

/// Returns the cuts of the pre-tokenizer of a tokenizer.json.
///
/// # Errors
/// A step that does something else, in words.
#[cfg(feature = "qlora")]
pub(super) fn cuts(json: &serde_json::Value) -> Result<Vec<String>, String> {
    let steps = match json["type"].as_str() {
        Some("Sequence") => json["pretokenizers"].as_array().map(Vec::as_slice),
        Some(_) => Some(std::slice::from_ref(json)),
        None => None,
    };
    let mut cuts = Vec::new();
    let mut bytes = false;
    for step in steps.unwrap_or_default() {
        let kind = step["type"].as_str().unwrap_or_default();
        let cut = match kind {
            "Digits" if step["individual_digits"] == true => Cut::Digits.in_words(),
            "ByteLevel" if step["add_prefix_space"] == false => {
                bytes = true;
                if step["use_regex"] == false {
                    continue;
                }
                Cut::Gpt2.in_words()
            }
            "Split" => {
                let isolated = step["behavior"] == "Isolated" && step["invert"] == false;
                // What is matched is kept, and these expressions match everything.
                let inverse = step["behavior"] == "Removed" && step["invert"] == true;
                match step["pattern"]["Regex"].as_str() {
                    Some(expression) if isolated || inverse => in_letters(expression),
                    _ => return Err(unknown_step(step)),
                }
            }
            _ => return Err(unknown_step(step)),
        };
        cuts.push(cut);
    }
    if bytes {
        Ok(cuts)
    } else {
        Err("its pre-tokenizer does not write bytes as letters (ByteLevel), which a GGUF vocabulary without SentencePiece's \
             pieces means"
            .into())
    }
}

#[cfg(feature = "qlora")]
fn unknown_step(step: &serde_json::Value) -> String {
    let mut text = step.to_string();
    if text.len() > 200 {
        text = text.chars().take(200).chain("...".chars()).collect();
    }
    format!("its pre-tokenizer has the step {text}, which has no name in llama.cpp")
}

#[cfg(feature = "qlora")]
impl Cut {
    /// Returns what tells it from others.
    fn in_words(&self) -> String {
        match self {
            Self::Digits => "every digit".into(),
            Self::Gpt2 => GPT2.into(),
            Self::Regex(expression) => in_letters(expression),
        }
    }
}

/// Returns an expression with the letters that its numbers (`\x{..}`) stand for.
#[cfg(feature = "qlora")]
fn in_letters(expression: &str) -> String {
    let mut written = String::new();
    let mut rest = expression;
    while let Some((before, behind)) = rest.split_once(r"\x{") {
        written.push_str(before);
        let letter = behind.split_once('}').and_then(|(digits, behind)| {
            Some((
                char::from_u32(u32::from_str_radix(digits, 16).ok()?)?,
                behind,
            ))
        });
        let Some((letter, behind)) = letter else {
            return expression.into();
        };
        written.push(letter);
        rest = behind;
    }
    written + rest
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut text = PreTokenizedString::from(text);
        let split = PreTokenizer::named(name).unwrap().build().unwrap();
        split.pre_tokenize(&mut text).unwrap();
        text.get_splits(OffsetReferential::Normalized, OffsetType::Byte)
            .into_iter()
            .map(|(word, _, _)| word.to_owned())
            .collect()
    }

    #[test]
    fn every_expression_compiles_and_no_name_is_given_twice() {
        let mut names = HashSet::new();
        for known in KNOWN {
            assert!(known.build().is_ok(), "{:?}", known.names);
            for name in known.names {
                assert!(names.insert(name), "{name}");
            }
        }
        assert!(PreTokenizer::names().starts_with("llama-bpe, "));
        assert!(PreTokenizer::named("klingon").is_none());
    }

    #[cfg(feature = "qlora")]
    #[test]
    fn every_pre_tokenizer_is_recognized_in_the_tokenizer_that_it_builds() {
        for known in KNOWN {
            let json = serde_json::to_value(known.build().unwrap()).unwrap();
            let wanted = Wanted {
                cuts: cuts(&json).unwrap(),
                composes: known.composes,
                takes_whole_words: known.takes_whole_words,
                adds_bos: known.adds_bos,
            };
            assert_eq!(wanted.name().unwrap(), known.names[0]);
        }
    }

    #[cfg(feature = "qlora")]
    #[test]
    fn a_pre_tokenizer_without_a_name_is_refused() {
        let bytes = serde_json::json!(
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
        );
        let digits = serde_json::json!({"type": "Digits", "individual_digits": false});
        let refusal = |steps| {
            let json = serde_json::json!({"type": "Sequence", "pretokenizers": steps});
            cuts(&json).unwrap_err()
        };
        assert!(refusal(serde_json::json!([digits, bytes])).contains("Digits"));
        assert!(refusal(serde_json::json!([])).contains("ByteLevel"));
        let unnamed = Wanted {
            cuts: vec!["[a-z]+".into()],
            composes: true,
            takes_whole_words: false,
            adds_bos: false,
        };
        assert!(unnamed.name().unwrap_err().contains("[a-z]+"));
    }

    #[test]
    fn each_pre_tokenizer_cuts_digits_in_its_own_way() {
        for (name, expected) in [
            ("gpt-2", vec!["a", "Ġ", "Ġ1234"]),
            ("smollm", vec!["a", "ĠĠ", "1", "2", "3", "4"]),
            ("llama-bpe", vec!["a", "Ġ", "Ġ", "123", "4"]),
            ("dbrx", vec!["a", "Ġ", "Ġ", "123", "4"]),
            ("qwen2", vec!["a", "Ġ", "Ġ", "1", "2", "3", "4"]),
            ("tekken", vec!["a", "Ġ", "Ġ", "1", "2", "3", "4"]),
            ("gpt-4o", vec!["a", "Ġ", "Ġ", "123", "4"]),
            ("deepseek-v3", vec!["a", "ĠĠ", "123", "4"]),
            ("default", vec!["a", "Ġ", "Ġ", "123", "4"]),
        ] {
            assert_eq!(words(name, "a  1234"), expected, "{name}");
        }
    }

    #[test]
    fn each_pre_tokenizer_cuts_words_in_its_own_way() {
        for (name, expected) in [
            ("gpt-2", vec!["I", "'", "LL", "ĠfooBar", "/", "Ċ"]),
            ("llama-bpe", vec!["I", "'LL", "ĠfooBar", "/Ċ"]),
            ("tekken", vec!["I", "'LL", "Ġfoo", "Bar", "/Ċ"]),
            ("gpt-4o", vec!["I'LL", "Ġfoo", "Bar", "/Ċ"]),
            ("seed-coder", vec!["I", "'LL", "ĠfooBar", "/", "Ċ"]),
            ("deepseek-v3", vec!["I", "'LL", "ĠfooBar", "/Ċ"]),
        ] {
            assert_eq!(words(name, "I'LL fooBar/\n"), expected, "{name}");
        }
    }
}
