//! Vocabularies for GGUF files: taken from another file, or from a tokenizer.json as llama.cpp's converter does it.

use std::path::Path;

use serde_json::Value;

use crate::gguf_file::{GgufBuilder, string};

pub const FLOAT: u32 = 6;
pub const INT: u32 = 5;
pub const STRING: u32 = 8;
const ARRAY: u32 = 9;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The entries of a GGUF file that belong to its tokenizer, byte for byte.
pub fn tokenizer_entries(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
    use std::io::Read;
    // The metadata of the largest of them takes 16 MB.
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).expect("opens");
    file.take(32 << 20).read_to_end(&mut bytes).expect("reads");
    assert_eq!(&bytes[..4], b"GGUF");
    let mut reader = Reader {
        bytes: &bytes,
        at: 16,
    };
    let count = reader.number(8);
    let entries = (0..count).map(|_| reader.entry());
    let entries: Vec<_> = entries.collect();
    let of_tokenizer = |(key, _, _): &(String, u32, Vec<u8>)| key.starts_with("tokenizer.");
    entries.into_iter().filter(of_tokenizer).collect()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn number(&mut self, width: usize) -> usize {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&self.bytes[self.at..self.at + width]);
        self.at += width;
        usize::try_from(u64::from_le_bytes(bytes)).expect("fits")
    }

    fn entry(&mut self) -> (String, u32, Vec<u8>) {
        let length = self.number(8);
        let key = self.bytes[self.at..self.at + length].to_vec();
        self.at += length;
        let kind = self.number(4) as u32;
        let start = self.at;
        self.skip(kind);
        let key = String::from_utf8(key).expect("a key");
        (key, kind, self.bytes[start..self.at].to_vec())
    }

    fn skip(&mut self, kind: u32) {
        match kind {
            STRING => {
                let length = self.number(8);
                self.at += length;
            }
            ARRAY => {
                let kind = self.number(4) as u32;
                for _ in 0..self.number(8) {
                    self.skip(kind);
                }
            }
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            _ => self.at += 8,
        }
    }
}

/// The vocabulary of a folder's tokenizer.json in a GGUF file, as `get_vocab_base` of llama.cpp's converter makes it; with
/// scores as SentencePiece gives them where pieces have no merges by bytes.
pub fn of_tokenizer_json(folder: &Path, pre: &str) -> GgufBuilder {
    let text = std::fs::read(folder.join("tokenizer.json")).expect("reads");
    let source: Value = serde_json::from_slice(&text).expect("JSON");
    let model = &source["model"];
    let sentencepiece = model["byte_fallback"] == true;
    let mut pieces: Vec<(String, i32)> = Vec::new();
    let mut put = |id: &Value, text: String, kind: i32| {
        let id = id.as_u64().expect("an id") as usize;
        for missing in pieces.len()..=id {
            pieces.push((format!("[PAD{missing}]"), UNUSED));
        }
        pieces[id] = (text, kind);
    };
    for (text, id) in model["vocab"].as_object().expect("a vocabulary") {
        let byte = sentencepiece && text.starts_with("<0x") && text.len() == 6;
        put(id, text.clone(), if byte { BYTE } else { NORMAL });
    }
    for token in source["added_tokens"].as_array().expect("added tokens") {
        let text = token["content"].as_str().expect("a text");
        let looks_special = text.starts_with("<|") && text.ends_with("|>");
        let (text, kind) = if text == "<unk>" {
            (text.to_owned(), UNKNOWN)
        } else if token["special"] == true || looks_special {
            (text.to_owned(), CONTROL)
        } else {
            (text.replace('▁', " "), USER_DEFINED)
        };
        put(&token["id"], text, kind);
    }
    let mut file = GgufBuilder::metadata_of_a_tiny_llama();
    file.number("llama.vocab_size", 300_000);
    file.text("tokenizer.ggml.pre", pre);
    file.text(
        "tokenizer.ggml.model",
        if sentencepiece { "llama" } else { "gpt2" },
    );
    let texts = pieces.iter().map(|(text, _)| string(text));
    array(&mut file, "tokens", STRING, texts.collect());
    let kinds = pieces.iter().map(|(_, kind)| kind.to_le_bytes().to_vec());
    array(&mut file, "token_type", INT, kinds.collect());
    if sentencepiece {
        // Minus the place among the pieces behind the special ones and the bytes; blanks alone are the last to be made.
        let score = |(id, (text, _)): (usize, &(String, i32))| match id {
            0..259 => 0.0,
            _ if text.chars().all(|letter| letter == '▁') => -1e9,
            _ => 259.0 - id as f32,
        };
        let scores = pieces.iter().enumerate().map(score);
        let scores = scores.map(|score: f32| score.to_le_bytes().to_vec());
        array(&mut file, "scores", FLOAT, scores.collect());
    } else {
        let merges = model["merges"].as_array().expect("merges").iter();
        let merges = merges.map(|merge| match merge {
            Value::String(merge) => string(merge),
            pair => string(&format!(
                "{} {}",
                pair[0].as_str().expect("a part"),
                pair[1].as_str().expect("a part")
            )),
        });
        array(&mut file, "merges", STRING, merges.collect());
    }
    let config = std::fs::read(folder.join("tokenizer_config.json")).expect("reads");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    if !sentencepiece {
        for role in ["bos", "eos"] {
            let text = config[format!("{role}_token")].as_str();
            if let Some(id) =
                text.and_then(|text| pieces.iter().position(|(piece, _)| piece == text))
            {
                file.number(&format!("tokenizer.ggml.{role}_token_id"), id as u32);
            }
        }
    }
    file
}

/// Puts `tokenizer.ggml.NAME` into the file: elements of the type `kind`, each as the file has it.
pub fn array(file: &mut GgufBuilder, name: &str, kind: u32, elements: Vec<Vec<u8>>) {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((elements.len() as u64).to_le_bytes());
    bytes.extend(elements.concat());
    file.entry(&format!("tokenizer.ggml.{name}"), ARRAY, bytes);
}
