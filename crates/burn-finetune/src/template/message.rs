//! The turns of a conversation, and what else a template is shown with them.

use minijinja::value::{Serde, Value, ValueKind};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names that a message's reasoning goes by, the standard one first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One turn of a conversation: an object with a `role`, as a rule a `content`, and whatever else the template knows
/// (`tool_calls`, `reasoning_content`). Its keys keep their order; those that are null count as absent.
#[derive(Debug, Clone)]
pub struct Message {
    role: String,
    fields: Fields,
    value: Value,
}

/// An object in the order of its keys.
#[derive(Debug, Clone, Default)]
struct Fields(Vec<(String, Value)>);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Fields {
    fn get(&self, key: &str) -> Option<&Value> {
        let field = self.0.iter().find(|(name, _)| name == key);
        field.map(|(_, value)| value)
    }

    fn set(&mut self, key: &str, value: Value) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }
}

/// Returns an object of these keys in this order.
pub(crate) fn object(fields: Vec<(String, Value)>) -> Value {
    Value::from(Serde(&Fields(fields)))
}

impl Message {
    /// Returns a message of plain text.
    pub fn new(role: &str, content: &str) -> Self {
        let fields = vec![
            ("role".to_owned(), Value::from(role)),
            ("content".to_owned(), Value::from(content)),
        ];
        Self::of(role.to_owned(), Fields(fields))
    }

    /// Reads a message from an object.
    ///
    /// # Errors
    /// A line that says why it is none: no object, no `role`.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        if value.kind() != ValueKind::Map {
            return Err(format!("it is a {}, not an object", value.kind()));
        }
        let mut fields = Vec::new();
        for key in value.try_iter().map_err(|error| error.to_string())? {
            let field = value.get_item(&key).map_err(|error| error.to_string())?;
            if !field.is_none() {
                fields.push((key.to_string(), field));
            }
        }
        let mut fields = Fields(fields);
        let role = match fields.get("role") {
            Some(role) => role
                .as_str()
                .ok_or_else(|| format!("its role is a {}, not a string", role.kind()))?
                .to_owned(),
            None => return Err("it has no role".to_owned()),
        };
        // As transformers does for templates that know but one of the names.
        let reasoning = REASONING.iter().find_map(|name| fields.get(name)).cloned();
        if let Some(reasoning) = reasoning {
            if fields.get("thinking").is_none() {
                fields
                    .0
                    .insert(0, ("thinking".to_owned(), reasoning.clone()));
            }
            fields.set("reasoning_content", reasoning);
        }
        Ok(Self::of(role, fields))
    }

    fn of(role: String, fields: Fields) -> Self {
        let value = Value::from(Serde(&fields));
        Self {
            role,
            fields,
            value,
        }
    }

    /// Returns who speaks: `system`, `user`, `assistant` or what else the template knows.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Returns what is under a key, `None` for null and for nothing.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    /// Returns the message with another content.
    #[must_use]
    pub(crate) fn with_content(&self, content: Value) -> Self {
        let mut fields = self.fields.clone();
        fields.set("content", content);
        Self::of(self.role.clone(), fields)
    }

    /// Returns the texts that the speaker means to be read: the reasoning and the content, where they are strings.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        let texts = ["reasoning_content", "content"].into_iter();
        texts.filter_map(|key| self.get(key)?.as_str())
    }

    /// Returns the names of the tools that the speaker calls.
    pub(crate) fn called_tools(&self) -> Vec<String> {
        let calls = self
            .get("tool_calls")
            .and_then(|calls| calls.try_iter().ok());
        let name = |call: Value| {
            let function = call.get_attr("function").ok();
            let function = function.filter(|function| !function.is_undefined());
            let name = function.unwrap_or(call).get_attr("name").ok()?;
            name.as_str().map(str::to_owned)
        };
        calls.into_iter().flatten().filter_map(name).collect()
    }

    /// Returns the message as a template sees it.
    pub(crate) fn value(&self) -> Value {
        self.value.clone()
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What a template is shown beside the messages.
#[derive(Debug, Clone, Default)]
pub struct TemplateVariables {
    /// The tools that the assistant may call, a list of JSON schemas; none if absent.
    pub tools: Option<Value>,
    /// The documents that it is to answer from; none if absent.
    pub documents: Option<Value>,
    /// Switches of the template by their names, such as `enable_thinking`.
    pub other: Vec<(String, Value)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> Result<Message, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn null_counts_as_absent_and_keys_keep_their_order() {
        let read = message(r#"{"role": "user", "b": 1, "content": null, "a": 2}"#).unwrap();
        let keys: Vec<_> = read.value().try_iter().unwrap().collect();
        assert_eq!(keys, ["role", "b", "a"].map(Value::from));
        assert!(read.get("content").is_none());
    }

    #[test]
    fn reasoning_goes_by_both_names() {
        for name in REASONING {
            let read = format!(r#"{{"role": "assistant", "{name}": "so", "content": "yes"}}"#);
            let read = message(&read).unwrap();
            for name in ["thinking", "reasoning_content"] {
                assert_eq!(read.get(name).unwrap().as_str(), Some("so"));
            }
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (json, expected) in [
            (r#"{"content": "x"}"#, "no role"),
            (r#"{"role": 1}"#, "not a string"),
            ("[]", "not an object"),
        ] {
            let error = message(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
