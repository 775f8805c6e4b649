//! Chat templates for models that come without one.

/// The templates by their names.
const TEMPLATES: [(&str, &str); 5] = [
    ("chatml", include_str!("builtin/chatml.jinja")),
    ("llama3", include_str!("builtin/llama3.jinja")),
    ("gemma", include_str!("builtin/gemma.jinja")),
    ("mistral", include_str!("builtin/mistral.jinja")),
    ("alpaca", include_str!("builtin/alpaca.jinja")),
];

/// Returns the source of a well-known template: `chatml`, `llama3`, `gemma`, `mistral` or `alpaca`.
pub fn builtin_template(name: &str) -> Option<&'static str> {
    let found = TEMPLATES.iter().find(|(known, _)| *known == name);
    found.map(|(_, source)| *source)
}

/// Returns the names that [`builtin_template`] knows.
pub fn builtin_template_names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(name, _)| *name)
}
