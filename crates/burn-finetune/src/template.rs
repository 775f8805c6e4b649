//! The Jinja chat templates that come with models, rendered as transformers renders them.

use crate::error::FinetuneError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter};
use std::collections::BTreeMap;
use std::io;

/// One turn of a conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// The text of the turn: a string, or another value that the template knows.
    #[serde(default)]
    pub content: Value,
    /// Further keys, such as `tool_calls`.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Message {
    /// Returns a message of plain text.
    pub fn new(role: &str, content: &str) -> Self {
        Self {
            role: role.to_owned(),
            content: Value::from(content),
            other: BTreeMap::new(),
        }
    }
}

/// A compiled chat template.
///
/// It sees what transformers shows it: `messages`, `add_generation_prompt`, the special tokens,
/// `raise_exception`, `strftime_now`, Python's string and dictionary methods, a `tojson` that does not
/// escape HTML, and blocks that leave no blank lines behind.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

/// Name of the one template in the environment. It has no extension, so nothing is escaped.
const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles `source`. `special_tokens` are the variables it may use, `bos_token` and `eos_token` above
    /// all.
    ///
    /// # Errors
    /// [`FinetuneError::Template`] when it is not a template.
    pub fn new(
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, FinetuneError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(template_error)?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(template_error)?;
        Ok(Self {
            environment,
            special_tokens,
        })
    }

    /// Returns the conversation as text. With `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// [`FinetuneError::Template`] when the template fails or refuses the conversation.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, FinetuneError> {
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => Value::from(Serde(messages)),
                    add_generation_prompt,
                    ..Value::from(Serde(&self.special_tokens))
                })
            })
            .map_err(template_error)
    }
}

/// Returns an error with its cause, in one line.
fn template_error(error: Error) -> FinetuneError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    FinetuneError::Template(text)
}

/// transformers marks the assistant's part with `{% generation %}` for its own masks; the text is the same
/// without, and masks come from the conversation's structure here.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end + 2) else {
            break;
        };
        let tag = rest[start + 2..end - 2].trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        let keep = if matches!(tag, "generation" | "endgeneration") {
            start
        } else {
            end
        };
        text.push_str(&rest[..keep]);
        if keep == start {
            // An empty block keeps the whitespace control of the tag it replaces.
            let [open, close] = [&rest[start + 2..start + 3], &rest[end - 3..end - 2]]
                .map(|mark| if mark == "-" { "-" } else { "" });
            text.push_str(&format!("{{%{open} if true %}}{{% endif {close}%}}"));
        }
        rest = &rest[end..];
    }
    text.push_str(rest);
    text
}

/// Implements `raise_exception(message)`.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Implements `strftime_now(format)`: the local time in Python's notation.
fn strftime_now(format: String) -> Result<String, Error> {
    use std::fmt::Write;
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(&format)).map_err(|_| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now does not know the format {format:?}"),
        )
    })?;
    Ok(text)
}

/// Implements `value | tojson(indent=n)` as Python's `json.dumps(value, ensure_ascii=False)` writes it.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Python's defaults cover the rest of what transformers lets a template say.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let result = match indent {
        Some(width) => {
            let indent = " ".repeat(width);
            write_json(
                &value,
                PrettyFormatter::with_indent(indent.as_bytes()),
                &mut bytes,
            )
        }
        None => write_json(&value, OneLine, &mut bytes),
    };
    result
        .and_then(|()| String::from_utf8(bytes).map_err(serde::ser::Error::custom))
        .map(Value::from_safe_string)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn write_json(
    value: &Value,
    formatter: impl Formatter,
    bytes: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(
        bytes, formatter,
    ))
}

/// Python's separators: `, ` and `: `.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message], prompt: bool) -> Result<String, FinetuneError> {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")]
            .map(|(name, token)| (name.to_owned(), token.to_owned()));
        ChatTemplate::new(source, BTreeMap::from(tokens))?.render(messages, prompt)
    }

    const CHATML: &str = "{% for message in messages %}{% if loop.first and \
        messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{% endif %}\
        {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
        {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn chatml_renders_as_in_transformers() {
        let text = render(CHATML, &[Message::new("user", "Hi <b>")], true).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n\
             <|im_start|>assistant\n"
        );
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let source = "{%- for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    \
                      {% endif %}\n{% endfor %}\n";
        let text = render(
            source,
            &[Message::new("user", "a"), Message::new("user", "b")],
            false,
        );
        assert_eq!(text.unwrap(), "a\nb\n");
    }

    #[test]
    fn python_methods_special_tokens_and_tojson_work() {
        let source = "{{ bos_token }}{{ messages[0].content.strip().split('|')[-1] }}\
                      {{ messages[0] | tojson }}{{ [] | tojson }}{{ [1, {'a': none}] | tojson(indent=2) }}";
        let text = render(source, &[Message::new("user", " x|ü<")], false).unwrap();
        assert_eq!(
            text,
            "<s>ü<{\"role\": \"user\", \"content\": \" x|ü<\"}[][\n  1,\n  {\n    \"a\": null\n  }\n]"
        );
    }

    #[test]
    fn a_template_can_refuse() {
        let error = render("{{ raise_exception('no system role') }}", &[], false).unwrap_err();
        assert!(error.to_string().contains("no system role"), "{error}");
        assert!(render("{% for %}", &[], false).is_err());
    }

    #[test]
    fn generation_tags_leave_the_text_alone() {
        let source = "a\n{%- generation %}b{% endgeneration -%} \nc";
        assert_eq!(render(source, &[], false).unwrap(), "abc");
    }

    #[test]
    fn the_date_is_written() {
        let text = render("{{ strftime_now('%d %b %Y') }}", &[], false).unwrap();
        assert!(text.len() >= 11 && text.contains(" 20"), "{text}");
        assert!(render("{{ strftime_now('%!') }}", &[], false).is_err());
    }
}
