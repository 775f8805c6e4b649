//! Gemma 3 270M as it is published in GGUF: its tokens.

use qlora_test_support::gemma3;

use crate::family_tokenizers::{assert_as_recorded, opened, with_entries};
use crate::gguf_vocabulary::tokenizer_entries;

#[test]
#[ignore = "needs scripts/fetch-gemma3.sh"]
fn tokens_equal_those_of_transformers() {
    let checkpoint = opened(&with_entries(&tokenizer_entries(&gemma3())));
    let tokenizer = checkpoint.tokenizer().expect("builds");
    assert_as_recorded(&tokenizer, "gemma3");
    assert_eq!(tokenizer.get_vocab_size(true), 262_144);
    // End of text, and end of turn by its text: the file has no key for it.
    assert_eq!(checkpoint.config().eos_token_ids, [1, 106]);
}
