//! Chat templates.

use crate::target::fuzz;
use burn_finetune::{ChatTemplate, Message, builtin_template, builtin_template_names};
use std::collections::BTreeMap;

/// What templates are written in, each of it once or twice.
const LANGUAGE: &str = r#"{%- set ns = namespace(x=['a'], y={'b': none}) -%}{% macro m(a, b=1) %}{{ a ~ b }}{% endmacro %}
{% for i in range(9) %}{% set ns.x = [ns.x, ns.x] + [i] %}{% set ns.y = {'c': ns.y, 'd': (ns.x, 'e')} %}{% endfor %}
{%- if ns.x == ns.y or ns.x[1:] in ns.y.values() and not ns.x is eq(ns.y) -%}{{ ns.x | join(', ') | trim }}{% endif %}
{% generation %}{{ m(messages[0].role, ns.x) ~ '%s' % ns.y['c'] }}{% endgeneration %}{{ '{}'.format(ns.x) if 1 < 2 else none }}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | sort | unique | tojson(indent=2) }}"#;

#[test]
fn chat_templates() {
    let good: Vec<_> = builtin_template_names()
        .filter_map(builtin_template)
        .chain([LANGUAGE])
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
