//! Chat templates.

use crate::target::fuzz;
use burn_finetune::{ChatTemplate, Message, builtin_template, builtin_template_names};
use std::collections::BTreeMap;

#[test]
fn chat_templates() {
    let good: Vec<_> = builtin_template_names()
        .filter_map(builtin_template)
        .map(|template| template.as_bytes().to_vec())
        .collect();
    let special = BTreeMap::from([("bos_token", "<s>"), ("eos_token", "</s>")]);
    let special: BTreeMap<String, String> = special
        .into_iter()
        .map(|(name, token)| (name.to_owned(), token.to_owned()))
        .collect();
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "Hello?"),
        Message::new("assistant", "Hello."),
    ];
    fuzz(&good, |bytes| {
        let Ok(source) = std::str::from_utf8(bytes) else {
            return;
        };
        if let Ok(template) = ChatTemplate::new(source, special.clone()) {
            let _ = template.render(&messages, true);
        }
    });
}
