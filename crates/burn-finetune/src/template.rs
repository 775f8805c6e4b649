//! The Jinja chat templates that come with models, rendered as transformers renders them.

/// Well-known templates for models that have none.
mod builtin;
/// What ends an answer.
mod end;
/// `tojson`.
mod json;
/// What a template may cost.
mod limits;
/// `{% generation %}`.
mod marks;
/// The turns, and the variables beside them.
mod message;
/// The operator `%` of strings.
mod percent;
/// What is Python's in Jinja.
mod python;
/// The tags of a source.
mod tags;
/// What it costs to compare values and to make texts of them.
mod weighed;

pub use builtin::{builtin_template, builtin_template_names};
pub(crate) use message::object;
pub use message::{Message, TemplateVariables};

use crate::error::FinetuneError;
use crate::moment::Moment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, State};
use std::collections::BTreeMap;
use std::ops::Range;

/// A compiled chat template.
///
/// It sees what transformers shows it: `messages`, `tools` and `documents` (none where there are none),
/// `add_generation_prompt`, the special tokens, `raise_exception`, `strftime_now`, Python's string and dictionary methods,
/// a `tojson` that does not escape HTML, and blocks that leave no blank lines behind.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Its source, without what [`weighed`] adds.
    source: String,
    special_tokens: BTreeMap<String, String>,
    has_marks: bool,
    goes_through_parts: bool,
    /// What it is shown in place of the clock's date and time.
    now: Option<Moment>,
}

/// Names of the template in the environment, and of the same one that writes where its marks are. They have no extension,
/// so nothing is escaped.
const NAME: &str = "chat";
const MARKED: &str = "marked";

impl ChatTemplate {
    /// The longest source of a template, in bytes.
    pub const MOST_SOURCE: usize = limits::MOST_SOURCE;

    /// Compiles `source`. `special_tokens` are the variables it may use, `bos_token` and `eos_token` above
    /// all.
    ///
    /// # Errors
    /// [`FinetuneError::Template`] when it is not a template, or is longer than [`MOST_SOURCE`](Self::MOST_SOURCE).
    pub fn new(
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, FinetuneError> {
        limits::check_source(source).map_err(FinetuneError::Template)?;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(template_error)?;
        environment.set_syntax(syntax);
        limits::install(&mut environment);
        python::install(&mut environment);
        percent::install(&mut environment);
        weighed::install(&mut environment);
        environment.add_filter("tojson", json::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| {
            strftime(Moment::now(), format)
        });
        let source = percent::replaced(source);
        let has_marks = marks::has_marks(&source);
        let compiled = limits::on_deep_stack(|| {
            for (name, written) in [(NAME, false), (MARKED, true)] {
                if has_marks || !written {
                    let source = weighed::replaced(&marks::replaced(&source, written));
                    environment.add_template_owned(name, source)?;
                }
            }
            Ok(())
        });
        compiled
            .map_err(FinetuneError::Template)?
            .map_err(template_error)?;
        let mut template = Self {
            environment,
            source: marks::replaced(&source, false),
            special_tokens,
            has_marks,
            goes_through_parts: false,
            now: None,
        };
        template.goes_through_parts = template.shows_parts();
        Ok(template)
    }

    /// Shows the template the date and time `now` in place of the clock's.
    #[must_use]
    pub fn with_now(mut self, now: Moment) -> Self {
        let strftime_now = move |format: &str| strftime(now, format);
        self.environment.add_function("strftime_now", strftime_now);
        self.now = Some(now);
        self
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
        self.render_with(
            messages,
            &TemplateVariables::default(),
            add_generation_prompt,
        )
    }

    /// Returns the conversation as text, with tools, documents and switches for the template.
    ///
    /// # Errors
    /// As for [`render`](Self::render).
    pub fn render_with(
        &self,
        messages: &[Message],
        variables: &TemplateVariables,
        add_generation_prompt: bool,
    ) -> Result<String, FinetuneError> {
        self.render_as(NAME, messages, variables, add_generation_prompt)
    }

    /// Returns the byte ranges of `text`, the rendering without a generation prompt, that the template marks as the
    /// assistant's by `{% generation %}`; `None` where it has no such marks, or changes what they enclose.
    ///
    /// # Errors
    /// As for [`render`](Self::render).
    pub(crate) fn marked(
        &self,
        messages: &[Message],
        variables: &TemplateVariables,
        text: &str,
    ) -> Result<Option<Vec<Range<usize>>>, FinetuneError> {
        if !self.has_marks {
            return Ok(None);
        }
        let marked = self.render_as(MARKED, messages, variables, false)?;
        Ok(marks::spans(&marked, text).filter(|spans| !spans.is_empty()))
    }

    /// Returns all that decides what it writes: its source, the special tokens and, if it asks for it, the date.
    pub(crate) fn identity(&self) -> String {
        let source = &self.source;
        let date = match self.now {
            Some(now) => now.to_string(),
            None => Moment::now().strftime("%F").unwrap_or_default(),
        };
        let date = source.contains("strftime_now").then_some(date);
        format!(
            "{source:?} {} {:?} {date:?}",
            self.has_marks, self.special_tokens
        )
    }

    /// Returns whether the template takes a content in parts apart, rather than printing the list or failing on it.
    pub(crate) fn goes_through_parts(&self) -> bool {
        self.goes_through_parts
    }

    fn shows_parts(&self) -> bool {
        const WORD: &str = "word";
        let part = BTreeMap::from([("type", "text"), ("text", WORD)]);
        let parts = Value::from_iter([Value::from(part)]);
        let message = Message::new("user", WORD).with_content(parts);
        let printed = ["'type'", "\"type\""];
        self.render(&[message], false)
            .is_ok_and(|text| text.contains(WORD) && !printed.iter().any(|key| text.contains(key)))
    }

    fn render_as(
        &self,
        name: &str,
        messages: &[Message],
        variables: &TemplateVariables,
        add_generation_prompt: bool,
    ) -> Result<String, FinetuneError> {
        let or_none = |value: &Option<Value>| value.clone().unwrap_or_else(|| Value::from(()));
        let special = self.special_tokens.iter();
        let special = special.map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let mut context: BTreeMap<String, Value> = special.collect();
        context.extend(variables.other.iter().cloned());
        context.extend(
            [
                ("messages", messages.iter().map(Message::value).collect()),
                ("tools", or_none(&variables.tools)),
                ("documents", or_none(&variables.documents)),
                ("add_generation_prompt", Value::from(add_generation_prompt)),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let context = Value::from(context);
        match run(&self.environment, name, &context) {
            Err(error) if limits::is_out_of_fuel(&error) => {}
            rendered => return rendered.map_err(template_error),
        }
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(limits::MOST_WORK));
        limits::on_deep_stack(|| run(&environment, name, &context))
            .map_err(FinetuneError::Template)?
            .map_err(template_error)
    }
}

fn run(environment: &Environment<'static>, name: &str, context: &Value) -> Result<String, Error> {
    environment.get_template(name)?.render(context)
}

/// Returns an error with its cause, in one line.
fn template_error(error: Error) -> FinetuneError {
    if limits::is_out_of_fuel(&error) {
        return FinetuneError::Template(format!(
            "it takes more than {} steps, or makes more than {} bytes of text: shorten the conversation, or take another \
             template (--chat-template)",
            limits::MOST_WORK,
            limits::MOST_WORK * limits::BYTES_OF_WORK as u64
        ));
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    FinetuneError::Template(text)
}

/// Implements `raise_exception(message)`.
fn raise_exception(state: &State, message: Value) -> Result<Value, Error> {
    weighed::weigh(state, &message)?;
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Implements `strftime_now(format)`: the time `now` in Python's notation.
fn strftime(now: Moment, format: &str) -> Result<String, Error> {
    now.strftime(format).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now does not know the format {format:?}"),
        )
    })
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

    /// As a run does that began before midnight and goes on after it.
    #[test]
    fn the_date_is_the_one_that_was_given() {
        let before: Moment = "2026-11-26T23:59:58.5+01:00".parse().unwrap();
        let template =
            ChatTemplate::new("{{ strftime_now('%d %b %Y %H:%M:%S') }}", BTreeMap::new());
        let template = template.unwrap().with_now(before);
        assert_eq!(template.render(&[], false).unwrap(), "26 Nov 2026 23:59:58");
    }

    #[test]
    fn the_date_is_written() {
        let text = render("{{ strftime_now('%d %b %Y') }}", &[], false).unwrap();
        assert!(text.len() >= 11 && text.contains(" 20"), "{text}");
        assert!(render("{{ strftime_now('%!') }}", &[], false).is_err());
    }
}
