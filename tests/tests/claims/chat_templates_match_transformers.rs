//! The chat templates of published models write what transformers makes them write.

use std::collections::BTreeMap;

use burn_finetune::{ChatTemplate, Message};
use burn_qlora_llama::Checkpoint;
use qlora_test_support::{directory_with_tokenizer, json};

#[test]
#[ignore = "needs scripts/fetch-tokenizers.sh"]
fn conversations_of_four_turns_are_the_same_text() {
    let recorded = json("family_tokens.json");
    for name in ["qwen3", "llama3_1", "gemma3"] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        directory_with_tokenizer(directory.path(), name);
        let checkpoint = Checkpoint::open(directory.path()).expect("opens");
        let source = checkpoint.chat_template().expect("reads");
        let special = checkpoint.special_tokens().expect("special tokens");
        let special = [("bos_token", special.bos), ("eos_token", special.eos)];
        let special: BTreeMap<_, _> = special
            .into_iter()
            .filter_map(|(name, token)| Some((name.to_owned(), token?.text)))
            .collect();
        let template =
            ChatTemplate::new(&source.expect("has a template"), special).expect("compiles");
        let chats = recorded["models"][name]["chats"].as_array();
        let chats = chats.expect("chats");
        assert_eq!(chats.len(), 4);
        for chat in chats {
            let place = chat["chat"].as_u64().expect("a place") as usize;
            let messages: Vec<Message> =
                serde_json::from_value(recorded["chats"][place].clone()).expect("messages");
            assert_eq!(messages.len(), 4);
            let prompt = chat["generation_prompt"].as_bool().expect("a flag");
            let text = template.render(&messages, prompt).expect("renders");
            assert_eq!(text, chat["text"].as_str().expect("a text"), "{name}");
        }
    }
}
