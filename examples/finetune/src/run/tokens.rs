use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::flags::TokenFlags;

/// The tokens whose rows are trained.
#[derive(Debug, Default)]
pub struct Tokens {
    /// Those that the vocabulary is extended by.
    pub added: Vec<String>,
    /// The ids of some of the model's own.
    pub trained: Vec<u32>,
}

impl Tokens {
    /// Resolves the flags.
    ///
    /// # Errors
    /// A file that cannot be read, or has no tokens.
    pub(super) fn resolve(flags: TokenFlags) -> Result<Self> {
        let added = match &flags.add_tokens {
            Some(path) => read(path).with_context(|| format!("--add-tokens {}", path.display()))?,
            None => Vec::new(),
        };
        Ok(Self {
            added,
            trained: flags.train_tokens,
        })
    }
}

/// Reads tokens, one a line or a JSON list.
fn read(path: &Path) -> Result<Vec<String>> {
    let text = fs::read(path).context("it cannot be read")?;
    let text = String::from_utf8(text).ok().context("it is not UTF-8")?;
    // A token may begin with a bracket.
    let list = serde_json::from_str::<Vec<String>>(&text);
    let is_json = path.extension().is_some_and(|name| name == "json");
    let tokens = match list {
        Ok(tokens) => tokens,
        Err(error) if is_json => bail!("it is no JSON list of strings: {error}"),
        Err(_) => text.lines().map(str::to_owned).collect(),
    };
    ensure!(
        !tokens.is_empty(),
        "it has no tokens; write one a line, or a JSON list"
    );
    if let Some(place) = tokens.iter().position(|token| token.trim().is_empty()) {
        bail!("token {} is empty; remove it", place + 1);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_lines_or_a_json_list() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            read(&path).map_err(|error| error.to_string())
        };
        let two = Ok(["[INST]".to_owned(), "<b>".to_owned()].to_vec());
        assert_eq!(of("a.txt", "[INST]\r\n<b>\n"), two);
        assert_eq!(of("a.json", r#" ["[INST]", "<b>"]"#), two);
        assert_eq!(of("b.txt", r#"["[INST]", "<b>"]"#), two);
        for (name, text, needle) in [
            ("c.txt", "", "no tokens"),
            ("c.json", "[]", "no tokens"),
            ("d.txt", "<a>\n\n<b>\n", "token 2 is empty"),
            ("d.json", r#"["<a>", ""]"#, "token 2 is empty"),
            ("e.json", "<a>", "no JSON list"),
        ] {
            let error = of(name, text).unwrap_err();
            assert!(error.contains(needle), "{name}: {error}");
        }
    }
}
