use serde_json::{Value, json};

/// A tokenizer.json of one token a byte, behind `<pad>`, `<s>` and `</s>` (ids 0 to 2).
pub fn byte_tokenizer() -> Value {
    let special = ["<pad>", "<s>", "</s>"];
    let mut vocab = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, token) in special.iter().enumerate() {
        vocab.insert(token.to_string(), json!(id));
        added.push(
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true }),
        );
    }
    // GPT-2's alphabet: printable bytes stand for themselves, the others follow from U+0100 on.
    let mut next = 0x100;
    for byte in 0..=255u32 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let letter = if printable {
            byte
        } else {
            next += 1;
            next - 1
        };
        let letter = char::from_u32(letter).expect("a letter");
        vocab.insert(letter.to_string(), json!(special.len() as u32 + byte));
    }
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [] },
    })
}
