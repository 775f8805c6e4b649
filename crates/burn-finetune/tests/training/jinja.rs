//! Chat templates print what Python's Jinja prints, as transformers sets it up.

use burn_finetune::{
    ChatTemplate, Message, TemplateVariables, builtin_template, builtin_template_names,
};
use std::collections::BTreeMap;

fn render(source: &str, messages: &[Message], prompt: bool) -> String {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned()));
    let template = ChatTemplate::new(source, BTreeMap::from(tokens)).unwrap();
    template
        .render_with(messages, &TemplateVariables::default(), prompt)
        .unwrap_or_else(|error| panic!("{source}: {error}"))
}

#[test]
fn methods_filters_and_tests_are_pythons() {
    for (source, expected) in [
        (
            "{{ 'one-two-three'.rsplit('-', 1) | join('|') }}",
            "one-two|three",
        ),
        ("{{ ' one  two '.rsplit(none, 1) | join('|') }}", " one|two"),
        (
            "{{ 'unhappy'.removeprefix('un') }} {{ 'happy'.removeprefix('un') }}",
            "happy happy",
        ),
        ("{{ 'a.txt'.removesuffix('.txt') }}", "a"),
        ("{{ 'äbäb'.index('b') }} {{ 'äbäb'.rindex('b') }}", "1 3"),
        ("{{ 'aBc'.swapcase() }}", "AbC"),
        ("{{ '-7'.zfill(4) }}{{ '12345'.zfill(3) }}", "-00712345"),
        (
            "{{ 'ab'.ljust(4, '.') }}{{ 'ab'.rjust(4) }}{{ 'ab'.center(5) }}|",
            "ab..  ab  ab |",
        ),
        (
            "{{ 'k=v=w'.partition('=') | join('|') }} {{ 'k=v=w'.rpartition('=') | join('|') }}",
            "k|=|v=w k=v|=|w",
        ),
        (
            "{{ 'kv'.partition('=') | join('|') }} {{ 'kv'.rpartition('=') | join('|') }}",
            "kv|| ||kv",
        ),
        (
            "{{ '' | default('d', boolean=true) }}{{ none | d('e', true) }}{{ 0 | default(3) }}",
            "de0",
        ),
        ("{{ 'one, two_2 three' | wordcount }}", "3"),
        ("{{ 'one two three' | truncate(9, leeway=0) }}", "one..."),
        (
            "{{ 'one two three' | truncate(7, true, '') }}{{ 'abc' | truncate(2) }}",
            "one twoabc",
        ),
        (
            "{{ 'ab' is sequence }}{{ {} is sequence }}{{ 3 is sequence }}{{ none is iterable }}{{ 'x' is iterable }}",
            "TrueTrueFalseFalseTrue",
        ),
        (
            "{{ [2e-7, 1.0, 3e16, 5] | tojson }}",
            "[2e-07, 1.0, 3e+16, 5]",
        ),
        (
            "{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':'), sort_keys=true) }}",
            r#"{"a":[1,2],"b":1}"#,
        ),
        (
            "{{ 'é\t👍' | tojson(ensure_ascii=true) }}{{ 'é<' | tojson }}",
            "\"\\u00e9\\t\\ud83d\\udc4d\"\"é<\"",
        ),
        (
            "{{ {'a': [], 'b': [1]} | tojson(indent=1) }}",
            "{\n \"a\": [],\n \"b\": [\n  1\n ]\n}",
        ),
        (
            "{{ tools is none }}{{ documents is none }}{{ tools is defined }}",
            "TrueTrueTrue",
        ),
        (
            "{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}",
            "xyx",
        ),
        (
            "{% set t = ('a', 2.5) %}{{ '%s-%d' % ('b', 3) }} {{ '%s|%.2f' % t }} {{ '%5s%%' % 'z' ~ '!' }} {{ '%s' % none }}",
            "b-3 a|2.50     z%! None",
        ),
        (
            "{% set next = joiner(', ') %}{{ next() }}a{{ next() }}b",
            "a, b",
        ),
    ] {
        assert_eq!(render(source, &[], false), expected, "{source}");
    }
}

#[test]
fn a_message_is_written_in_its_own_order() {
    let message: Message = serde_json::from_str(
        r#"{"role": "user", "z": 1, "content": null, "a": {"y": null, "b": 2}}"#,
    )
    .unwrap();
    let text = render("{{ messages[0] | tojson }}", &[message], false);
    assert_eq!(
        text,
        r#"{"role": "user", "z": 1, "a": {"y": null, "b": 2}}"#
    );
}

#[test]
fn the_built_in_templates_write_the_documented_formats() {
    let chat = [
        Message::new("system", "Be kind."),
        Message::new("user", "Hi"),
        Message::new("assistant", "Ho"),
        Message::new("user", "Bye"),
    ];
    let formats = [
        (
            "chatml",
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\
             Ho<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user\
             <|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant\
             <|end_header_id|>\n\n",
        ),
        (
            "gemma",
            "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n\
             <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "mistral",
            "<s>[INST] Be kind.\n\nHi [/INST] Ho</s>[INST] Bye [/INST]",
        ),
        (
            "alpaca",
            "<s>Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHo</s>\n\n### Instruction:\nBye\n\n### Response:\n",
        ),
    ];
    let names: Vec<_> = formats.iter().map(|(name, _)| *name).collect();
    assert_eq!(builtin_template_names().collect::<Vec<_>>(), names);
    for (name, expected) in formats {
        let source = builtin_template(name).unwrap();
        assert_eq!(render(source, &chat, true), expected, "{name}");
    }
    assert!(builtin_template("vicuna").is_none());
}

fn refusal(source: &str) -> String {
    let started = std::time::Instant::now();
    let refusal = error_of(source);
    // A second alone; the rest is for machines that do other things beside it.
    let took = started.elapsed();
    assert!(
        took < std::time::Duration::from_secs(10),
        "{took:?} for {source:.120}"
    );
    refusal
}

fn error_of(source: &str) -> String {
    let template = ChatTemplate::new(source, BTreeMap::new());
    let error = match template {
        Ok(template) => template.render(&[Message::new("user", "Hi")], false),
        Err(error) => Err(error),
    };
    error
        .expect_err(source.get(..80).unwrap_or(source))
        .to_string()
}

/// Templates come with models, from whoever made them.
#[test]
fn templates_that_would_take_all_time_or_memory_are_refused() {
    let long = "x".repeat(ChatTemplate::MOST_SOURCE);
    let chain = |link: &str| format!("{{{{ x{} }}}}", link.repeat(3000));
    let loops = "{% for i in range(100000) %}".repeat(3) + &"{% endfor %}".repeat(3);
    let nested = |tail: &str| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(100000) %}}{{% set ns.x = [[[ns.x]]] %}}{{% endfor %}}{tail}"
        )
    };
    let doubled = |tail: &str| {
        format!(
            "{{% set ns = namespace(x='x') %}}{{% for i in range(60) %}}{{% set ns.x = [ns.x, ns.x] %}}{{% endfor %}}{tail}"
        )
    };
    let twice = |tail: &str| {
        format!(
            "{{% set ns = namespace(x='x', y='x') %}}{{% for i in range(60) %}}{{% set ns.x = [ns.x, ns.x] %}}\
             {{% set ns.y = [ns.y, ns.y] %}}{{% endfor %}}{tail}"
        )
    };
    let pairs = "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = PAIR %}{% endfor %}{{ ns.x ~ '' }}";
    for (source, expected) in [
        (loops.as_str(), "steps"),
        (
            "{% for i in range(3) recursive %}{{ loop(range(3)) }}{% endfor %}",
            "recursion",
        ),
        (
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "recursion",
        ),
        ("{{ 'x' * 10**9 }}", "steps"),
        (
            "{% set x = 'x' * 10**6 %}{% for i in range(200) %}{{ x }}{% endfor %}",
            "steps",
        ),
        ("{{ 'x' | indent(10**18) }}", "steps"),
        ("{{ '%999999999d' | format(3) }}", "steps"),
        ("{{ '{:>999999999}'.format(3) }}", "65536"),
        ("{{ 'x'.ljust(10**9) }}", "65536"),
        ("{{ [[[1]]] | tojson(indent='x' * 10**7) }}", "8388608"),
        (doubled("{{ ns.x }}").as_str(), "8388608"),
        (doubled("{{ ns.x | tojson }}").as_str(), "8388608"),
        (nested("{{ ns.x | tojson }}").as_str(), "200"),
        (twice("{{ ns.x == ns.y }}").as_str(), "steps"),
        (twice("{{ ns.x in [ns.y] }}").as_str(), "steps"),
        (twice("{{ ns.x is eq(ns.y) }}").as_str(), "steps"),
        (
            twice("{{ [ns.x] | select('in', [ns.y]) | list }}").as_str(),
            "steps",
        ),
        (twice("{{ [ns.x, ns.y] | unique }}").as_str(), "steps"),
        (twice("{{ [ns.x, ns.y] | sort }}").as_str(), "steps"),
        (twice("{{ [ns.x].count(ns.y) }}").as_str(), "steps"),
        (
            twice("{% for i in [1, 2] %}{{ loop.changed([ns.x, ns.y][i - 1]) }}{% endfor %}")
                .as_str(),
            "steps",
        ),
        (twice("{{ ns.x ~ '' }}").as_str(), "steps"),
        (twice("{{ '' ~ (ns.x if true else 1) }}").as_str(), "steps"),
        (twice("{{ ns.x | string }}").as_str(), "steps"),
        (twice("{{ ns.x | join }}").as_str(), "steps"),
        (twice("{{ [1, 2] | join(ns.x) }}").as_str(), "steps"),
        (twice("{{ ','.join(ns.x) }}").as_str(), "steps"),
        (twice("{{ '%s' % (ns.x,) }}").as_str(), "steps"),
        (twice("{{ '{}'.format(ns.x) }}").as_str(), "steps"),
        (twice("{{ raise_exception(ns.x) }}").as_str(), "steps"),
        (twice("{{ strftime_now(ns.x) }}").as_str(), "string"),
        (twice("{{ debug() }}").as_str(), "debug"),
        (&pairs.replace("PAIR", "{'a': ns.x, 'b': ns.x}"), "steps"),
        (&pairs.replace("PAIR", "dict(a=ns.x, b=ns.x)"), "steps"),
        (&pairs.replace("PAIR", "namespace(a=ns.x, b=ns.x)"), "steps"),
        (
            &pairs.replace("PAIR", "[ns.x] | zip([ns.x]) | list"),
            "steps",
        ),
        (
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns ~ '' }}",
            "steps",
        ),
        (
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
            "8388608",
        ),
        ("{{ (['x' * 1000] * 1000000) ~ '' }}", "steps"),
        (
            "{% set x = 'x' * 10**6 %}{% for i in range(100000) %}{% if x ~ 1 == x ~ 2 %}{% endif %}{% endfor %}",
            "steps",
        ),
        ("{{ messages | pprint }}", "pprint"),
        ("{{ '%s' % (1, 2) }}", "not all arguments"),
        ("{{ '%s %s' % 1 }}", "argument"),
        ("{{ messages % 2 }}", "operator"),
        ("{{ '%99999999999s' % 2 }}", "steps"),
        (chain("+x").as_str(), "2048"),
        (long.as_str(), "262144"),
        ("{%}", "syntax"),
        ("{%-%}", "syntax"),
        ("{{}}", "syntax"),
        ("{#}", "syntax"),
        ("{%", "syntax"),
    ] {
        let error = refusal(&(source.to_owned() + " "));
        assert!(error.contains(expected), "{source:.80}: {error}");
        assert!(error.len() < 300 && !error.contains('\n'), "{error}");
    }
    // Nothing is left of these but their freeing, which goes as deep as they do.
    assert_eq!(render(&nested(""), &[], false), "");
    assert_eq!(
        render(&"{% if x %}{% elif x %}{% endif %}".repeat(9), &[], false),
        ""
    );
    let branches = format!("{{% if x %}}{}{{% endif %}}", "{%elif x%}".repeat(20_000));
    assert_eq!(render(&branches, &[], false), "");
    let indented = "{{ [[1]] | tojson(indent=10**18) }}";
    assert_eq!(render(indented, &[], false).len(), 64 + 128 + 64 + 9);
}

/// What a template may cost is far from what a conversation does.
#[test]
fn long_conversations_are_rendered() {
    let words = "word ".repeat(4000);
    let turn = |at: usize| Message::new(["user", "assistant"][at % 2], &words);
    let turns: Vec<Message> = (0..200).map(turn).collect();
    let source = builtin_template("chatml").unwrap();
    let text = render(source, &turns, true);
    assert!(text.len() > 4_000_000 && text.ends_with("<|im_start|>assistant\n"));
}
