//! Vocabularies for GGUF files: taken from another file, or from a tokenizer's own as llama.cpp's converter does it.

use std::collections::HashMap;
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
    let mut file = vocabulary(if sentencepiece { "llama" } else { "gpt2" }, pre);
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

/// A GGUF file without a model, and with the beginning of a vocabulary.
fn vocabulary(model: &str, pre: &str) -> GgufBuilder {
    let mut file = GgufBuilder::metadata_of_a_tiny_llama();
    file.text("tokenizer.ggml.model", model);
    file.text("tokenizer.ggml.pre", pre);
    file
}

/// The vocabulary of a SentencePiece model file in a GGUF file.
pub fn of_sentencepiece_model(path: &Path) -> GgufBuilder {
    let bytes = std::fs::read(path).expect("reads");
    let (mut texts, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for (field, piece) in fields(&bytes) {
        // sentencepiece_model.proto: the pieces are field 1, and of each text, score and type 1 to 3.
        if field != 1 {
            continue;
        }
        let (mut text, mut score, mut kind) = (&[][..], &[0; 4][..], NORMAL);
        for (field, value) in fields(piece) {
            match field {
                1 => text = value,
                2 => score = value,
                3 => kind = i32::from(value[0]),
                _ => {}
            }
        }
        texts.push(string(std::str::from_utf8(text).expect("a text")));
        scores.push(score.to_vec());
        kinds.push(kind.to_le_bytes().to_vec());
    }
    let mut file = vocabulary("llama", "default");
    array(&mut file, "tokens", STRING, texts);
    array(&mut file, "scores", FLOAT, scores);
    array(&mut file, "token_type", INT, kinds);
    file
}

/// The fields of a message in Protocol Buffers' wire format.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let end = bytes
            .iter()
            .position(|byte| byte & 0x80 == 0)
            .expect("an end");
        let (number, rest) = bytes.split_at(end + 1);
        *bytes = rest;
        let add = |sum, byte: &u8| sum << 7 | u64::from(byte & 0x7f);
        number.iter().rev().fold(0, add)
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let before = message;
        let length = match tag & 7 {
            0 => {
                varint(&mut message);
                let length = before.len() - message.len();
                message = before;
                length
            }
            1 => 8,
            2 => varint(&mut message) as usize,
            _ => 4,
        };
        let (value, rest) = message.split_at(length);
        fields.push((tag >> 3, value));
        message = rest;
    }
    fields
}

/// The vocabulary of a tekken.json in a GGUF file. It has tokens by rank and no merges: every way to make a token of two
/// others is one, in the order of the token's rank and then of its parts' (transformers' `TikTokenConverter`).
pub fn of_tekken(path: &Path) -> GgufBuilder {
    let text = std::fs::read(path).expect("reads");
    let source: Value = serde_json::from_slice(&text).expect("JSON");
    let number = |key: &str| source["config"][key].as_u64().expect("a number") as usize;
    let special = number("default_num_special_tokens");
    let vocab = source["vocab"].as_array().expect("a vocabulary");
    let tokens: Vec<Vec<u8>> = vocab[..number("default_vocab_size") - special]
        .iter()
        .map(|token| base64(token["token_bytes"].as_str().expect("bytes")))
        .collect();
    let ranks: HashMap<&[u8], usize> = tokens
        .iter()
        .enumerate()
        .map(|(rank, token)| (token.as_slice(), rank))
        .collect();
    let mut merges = Vec::new();
    for token in &tokens {
        let cuts = (1..token.len()).map(|at| token.split_at(at));
        let mut pairs: Vec<_> = cuts
            .filter_map(|(left, right)| Some((*ranks.get(left)?, *ranks.get(right)?)))
            .collect();
        pairs.sort_unstable();
        merges.extend(pairs);
    }
    let letters: Vec<String> = tokens.iter().map(|token| in_letters(token)).collect();
    let merges = merges.into_iter();
    let merges =
        merges.map(|(left, right)| string(&format!("{} {}", letters[left], letters[right])));
    let named = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let filler = (named.len()..special).map(|id| format!("<SPECIAL_{id}>"));
    let texts = named.into_iter().chain(filler).chain(letters.clone());
    let kinds = (0..special + letters.len()).map(|id| if id < special { CONTROL } else { NORMAL });
    let mut file = vocabulary("gpt2", "tekken");
    array(
        &mut file,
        "tokens",
        STRING,
        texts.map(|text| string(&text)).collect(),
    );
    array(
        &mut file,
        "token_type",
        INT,
        kinds.map(|kind| kind.to_le_bytes().to_vec()).collect(),
    );
    array(&mut file, "merges", STRING, merges.collect());
    file.number("tokenizer.ggml.bos_token_id", 1);
    file.number("tokenizer.ggml.eos_token_id", 2);
    file
}

fn base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text
        .bytes()
        .filter_map(|letter| LETTERS.iter().position(|known| *known == letter));
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0usize, 0);
    for digit in digits {
        bits = bits << 6 | digit;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

/// GPT-2's letters for bytes: printable ones are themselves, the others follow from U+0100 on.
fn in_letters(bytes: &[u8]) -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let letter = |byte: u8| {
        let others = (0..byte).filter(|before| !printable(*before)).count();
        let code = if printable(byte) {
            u32::from(byte)
        } else {
            0x100 + others as u32
        };
        char::from_u32(code).expect("a letter")
    };
    bytes.iter().map(|byte| letter(*byte)).collect()
}
