//! The learnt part of conversations, for the shapes that the templates of well-known models have. The templates are
//! written for these tests; they do what those do.

use crate::bytes::{learnt, tokenizer};
use burn_finetune::{ChatTemplate, Encoded, Learn, RowEncoder, RowProblem, RowWarning};
use std::collections::BTreeMap;

const CHATML: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";

/// The generation prompt opens the reasoning, and finished turns lose theirs, as in DeepSeek-R1-Distill.
const REASONS_WHEN_ASKED: &str = "{{ bos_token }}{% for m in messages %}\
    {% if m.role == 'user' %}[u]{{ m.content }}\
    {% elif m.role == 'assistant' %}[a]{{ m.content.split('</think>')[-1] }}[eos]\
    {% else %}{{ m.content }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}[a]<think>\n{% endif %}";

/// The last answer shows its reasoning, even none, and older ones do not, as in Qwen 3.
const DROPS_OLD_REASONING: &str = "{% set ns = namespace(last=0) %}\
    {% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
    {% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and loop.index0 > ns.last %}\
    <think>{{ m.reasoning_content | default('') }}</think>{% endif %}{{ m.content }}[end]{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";

/// An answer ends otherwise when it is the last, and its reasoning has a channel, as in gpt-oss.
const LAST_RETURNS: &str = "{% for m in messages %}{% if m.role == 'assistant' %}\
    {% if m.thinking and loop.last %}<start>assistant<analysis>{{ m.thinking }}<end>{% endif %}\
    <start>assistant<final>{{ m.content }}\
    {% if loop.last and not add_generation_prompt %}<return>{% else %}<end>{% endif %}\
    {% else %}<start>{{ m.role }}<message>{{ m.content }}<end>{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<start>assistant{% endif %}";

/// A mark ends the conversation unless an answer is asked for, as in Phi.
const ENDS_CONVERSATIONS: &str = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}";

/// The system prompt goes to the last turn of the user, and nothing asks for an answer, as in Mistral.
const SYSTEM_LAST: &str = "{% for m in messages %}{% if m.role == 'user' %}[INST]\
    {% if loop.index0 == (messages | length) - 1 - ((messages | last).role == 'assistant') | int \
    and messages[0].role == 'system' %}{{ messages[0].content }}|{% endif %}{{ m.content }}[/INST]\
    {% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}";

/// Roles have other names and contents are trimmed, as in Gemma and Llama 3.
const TRIMS: &str = "{{ bos_token }}{% for m in messages %}<{{ 'model' if m.role == 'assistant' else m.role }}>\n\
    {{ m.content | trim }}<end>\n{% endfor %}{% if add_generation_prompt %}<model>\n{% endif %}";

/// A default system prompt, which an empty list breaks.
const DEFAULT_SYSTEM: &str = "{% if messages[0]['role'] != 'system' %}[system]Help.[end]{% endif %}\
    {% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";

/// Calls of tools go into the header, and their schemas before everything.
const CALLS_TOOLS: &str = "{% if tools is not none %}tools {{ tools | tojson }}\n{% endif %}\
    {% for m in messages %}[{{ m.role }}]{% if m.content %}{{ m.content }}{% endif %}\
    {% for call in m.tool_calls or [] %}call {{ call.function | tojson }}{% endfor %}[end]{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";

/// The template marks the answers itself.
const MARKS: &str = "{{ messages | length }}{% for m in messages %}{% if m.role == 'assistant' %}[a]\
    {% generation %}{{ m.content }}[end]{% endgeneration %}{% else %}[u]{{ m.content }}{% endif %}{% endfor %}";

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, BTreeMap::new()).unwrap()
}

fn encode_as(source: &str, line: &str, learn: Learn) -> Result<Encoded, RowProblem> {
    let (tokenizer, template) = (tokenizer(), template(source));
    let encoder = RowEncoder {
        tokenizer: &tokenizer,
        template: Some(&template),
        eos: None,
        vocab_size: None,
        learn,
        max_len: 1000,
        truncate: false,
    };
    encoder.json_line(line)
}

fn encode(source: &str, line: &str) -> Result<Encoded, RowProblem> {
    encode_as(source, line, Learn::AllAnswers)
}

/// Returns the learnt part of every row.
fn parts(encoded: &Encoded) -> Vec<String> {
    let tokenizer = tokenizer();
    let rows = encoded.rows.iter();
    rows.map(|row| learnt(row, &tokenizer).replace('Ċ', "\n"))
        .collect()
}

/// A row of these turns, a role's first letter before each.
fn chat(turns: &[&str]) -> String {
    let turns = turns.iter().map(|turn| {
        let (role, content) = turn.split_at(1);
        let role = match role {
            "u" => "user",
            "a" => "assistant",
            _ => "system",
        };
        format!(
            r#"{{"role": "{role}", "content": {:?}}}"#,
            content.trim_start_matches(':')
        )
    });
    format!(
        r#"{{"messages": [{}]}}"#,
        turns.collect::<Vec<_>>().join(", ")
    )
}

#[test]
fn every_shape_of_template_learns_its_answers() {
    for (source, one, four, greeting) in [
        (CHATML, "ho[end]", "ho[end]hy[end]", "ho[end]hy[end]"),
        (
            REASONS_WHEN_ASKED,
            "ho[eos]",
            "ho[eos]hy[eos]",
            "ho[eos]hy[eos]",
        ),
        (
            LAST_RETURNS,
            "<final>ho<return>",
            "<final>ho<end><final>hy<return>",
            "<final>ho<end><final>hy<return>",
        ),
        (
            ENDS_CONVERSATIONS,
            "ho<|end|>\n<|endoftext|>",
            "ho<|end|>\nhy<|end|>\n<|endoftext|>",
            "ho<|end|>\nhy<|end|>\n<|endoftext|>",
        ),
        (
            TRIMS,
            "ho<end>\n",
            "ho<end>\nhy<end>\n",
            "ho<end>\nhy<end>\n",
        ),
        (
            DEFAULT_SYSTEM,
            "ho[end]",
            "ho[end]hy[end]",
            "ho[end]hy[end]",
        ),
        (CALLS_TOOLS, "ho[end]", "ho[end]hy[end]", "ho[end]hy[end]"),
        (MARKS, "ho[end]", "ho[end]hy[end]", "ho[end]hy[end]"),
    ] {
        for (turns, expected) in [
            (&["u:hi", "a:ho"][..], one),
            (&["s:be", "u:hi", "a:ho"], one),
            (&["u:hi", "a:ho", "u:x", "a:hy"], four),
            (&["a:ho", "u:x", "a:hy"], greeting),
        ] {
            let encoded =
                encode(source, &chat(turns)).unwrap_or_else(|error| panic!("{source}: {error}"));
            let learnt: String = parts(&encoded).concat();
            // A greeting's header has no question before it that could show where it ends.
            let learnt = learnt.strip_prefix("<start>assistant").unwrap_or(&learnt);
            assert_eq!(learnt, expected, "{source} {turns:?}");
            assert!(encoded.warnings.is_empty());
        }
    }
}

#[test]
fn an_answer_that_the_whole_shows_otherwise_has_a_row_of_its_own() {
    let row = r#"{"messages": [{"role": "user", "content": "hi"},
        {"role": "assistant", "reasoning_content": "r1", "content": "ho"},
        {"role": "user", "content": "x"}, {"role": "assistant", "reasoning_content": "r2", "content": "hy"}]}"#;
    let encoded = encode(DROPS_OLD_REASONING, row).unwrap();
    assert_eq!(
        parts(&encoded),
        ["<think>r1</think>ho[end]", "<think>r2</think>hy[end]"]
    );
    // The second row shows the first answer without its reasoning, as the model saw it then.
    let whole = "[user]hi[end][assistant]ho[end][user]x[end][assistant]<think>r2</think>hy[end]";
    assert_eq!(encoded.rows[1].len(), whole.len());
    assert!(encoded.warnings.is_empty());
    // Without reasoning the answers still differ by its marks.
    let encoded = encode(DROPS_OLD_REASONING, &chat(&["u:hi", "a:ho", "u:x", "a:hy"])).unwrap();
    assert_eq!(
        parts(&encoded),
        ["<think></think>ho[end]", "<think></think>hy[end]"]
    );
    let encoded = encode(SYSTEM_LAST, &chat(&["s:be", "u:hi", "a:ho", "u:x", "a:hy"])).unwrap();
    assert_eq!(parts(&encoded), [" ho</s>", " hy</s>"]);
    assert_eq!(encoded.rows[0].len(), "[INST]be|hi[/INST] ho</s>".len());
}

#[test]
fn turns_can_be_marked_as_not_to_be_learnt() {
    let row = |mark: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "hi"}}, {{"role": "assistant", "content": "ho", {mark}}},
            {{"role": "user", "content": "x"}}, {{"role": "assistant", "content": "hy", "weight": 1, "train": true}}]}}"#
        )
    };
    for mark in [r#""weight": 0"#, r#""weight": 0.0"#, r#""train": false"#] {
        for source in [CHATML, MARKS] {
            assert_eq!(parts(&encode(source, &row(mark)).unwrap()), ["hy[end]"]);
        }
        let all = encode_as(CHATML, &row(mark), Learn::Everything).unwrap();
        assert_eq!(
            parts(&all),
            ["user]hi[end][assistant][user]x[end][assistant]hy[end]"]
        );
    }
    for (mark, expected) in [
        (r#""weight": 0.5"#, "0 or 1"),
        (
            r#""train": "no""#,
            r#""train" is 'no', but it must be true or false"#,
        ),
    ] {
        let error = encode(CHATML, &row(mark)).unwrap_err().to_string();
        assert!(
            error.contains("message 2") && error.contains(expected),
            "{error}"
        );
    }
    let error = encode(
        CHATML,
        r#"{"messages": [{"role": "assistant", "content": "x", "weight": 0}]}"#,
    );
    assert!(matches!(error, Err(RowProblem::NoTargets(_))));
}

#[test]
fn roles_are_named_where_none_is_the_assistants() {
    let row = r#"{"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"},
        {"role": "human", "content": "c"}]}"#;
    let error = encode(CHATML, row).unwrap_err().to_string();
    assert!(error.contains(r#"(found: "human", "gpt")"#), "{error}");
}

#[test]
fn the_last_answer_or_everything_can_be_learnt() {
    let row = chat(&["u:hi", "a:ho", "u:x", "a:hy"]);
    let last = encode_as(CHATML, &row, Learn::LastAnswer).unwrap();
    assert_eq!(parts(&last), ["hy[end]"]);
    let all = encode_as(CHATML, &row, Learn::Everything).unwrap();
    // All but the first token, which nothing predicts.
    assert_eq!(
        parts(&all),
        ["user]hi[end][assistant]ho[end][user]x[end][assistant]hy[end]"]
    );
    let completion = r#"{"prompt": "abc", "completion": "de"}"#;
    for (learn, expected) in [(Learn::LastAnswer, "de"), (Learn::Everything, "bcde")] {
        let encoded = encode_as(CHATML, completion, learn).unwrap();
        assert_eq!(parts(&encoded), [expected]);
    }
}

#[test]
fn tools_and_switches_reach_the_template() {
    let tools = r#"[{"name": "add", "args": {"a": 1}}]"#;
    let calls = |tools: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "hi"}}, {{"role": "assistant", "content": null,
            "tool_calls": [{{"function": {{"name": "add"}}}}]}}], "tools": {tools}}}"#
        )
    };
    let answer = "[user]hi[end][assistant]call {\"name\": \"add\"}[end]";
    let shown = format!("tools {tools}\n{answer}");
    for (written, expected) in [
        (tools.to_owned(), shown.len()),
        (format!("{tools:?}"), shown.len()),
        ("null".to_owned(), answer.len()),
    ] {
        let encoded = encode(CALLS_TOOLS, &calls(&written)).unwrap();
        assert_eq!(parts(&encoded), ["call {\"name\": \"add\"}[end]"]);
        assert_eq!(encoded.rows[0].len(), expected, "{written}");
    }
    for (written, expected) in [("3", "not a list"), ("\"[\"", "not JSON")] {
        let error = encode(CALLS_TOOLS, &calls(written))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"tools\"") && error.contains(expected),
            "{error}"
        );
    }
    let switch = "{% for m in messages %}{{ m.content }}{{ mood | default('!') }}{% endfor %}";
    let row = r#"{"messages": [{"role": "assistant", "content": "ho"}], "chat_template_kwargs": {"mood": "?"}}"#;
    assert_eq!(parts(&encode(switch, row).unwrap()), ["o?"]);
}

#[test]
fn parts_of_text_are_joined_and_others_refused() {
    let row = |part: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "hi"}},
            {{"role": "assistant", "content": [{{"type": "text", "text": "ho"}}, {part}]}}]}}"#
        )
    };
    let text = row(r#"{"type": "text", "text": " hy"}"#);
    assert_eq!(parts(&encode(CHATML, &text).unwrap()), ["ho hy[end]"]);
    let goes_through = "{% for m in messages %}{% for part in m.content %}{{ part.text }};{% endfor %}{% endfor %}";
    let line =
        r#"{"messages": [{"role": "assistant", "content": [{"type": "text", "text": "ho"}]}]}"#;
    assert_eq!(parts(&encode(goes_through, line).unwrap()), ["o;"]);
    for source in [CHATML, goes_through] {
        let error = encode(source, &row(r#"{"type": "image", "url": "x"}"#));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("message 2") && error.contains("image"),
            "{error}"
        );
    }
}

#[test]
fn a_part_that_the_template_leaves_out_is_told() {
    let row = chat(&["u:hi", "a:<think>so</think>ho"]);
    let encoded = encode(REASONS_WHEN_ASKED, &row).unwrap();
    assert_eq!(encoded.warnings, [RowWarning::LeftOut { turn: 2 }]);
    assert_eq!(parts(&encoded), ["ho[eos]"]);
    let call = r#"{"messages": [{"role": "user", "content": "add"}, {"role": "assistant", "content": "",
        "tool_calls": [{"function": {"name": "add"}}]}]}"#;
    for (source, told) in [(CHATML, true), (CALLS_TOOLS, false)] {
        let encoded = encode(source, call).unwrap();
        assert_eq!(!encoded.warnings.is_empty(), told, "{source}");
    }
}

#[test]
fn an_answer_that_cannot_be_found_is_refused_with_a_way_out() {
    for source in [
        // Written twice, written nowhere.
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}?{% endif %}",
        "{{ messages | length }}",
    ] {
        let error = encode(source, &chat(&["u:hi", "a:ho"])).unwrap_err();
        assert!(
            matches!(error, RowProblem::NotIncremental { turn: 2 }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("{% generation %}") && text.contains("--chat-template"),
            "{text}"
        );
    }
}
