use std::path::{Path, PathBuf};

use serde_json::Value;

/// The recorded file or folder `name`: in the folder that the environment variable `QLORA_FIXTURES` names, else in the
/// workspace's `tests/fixtures`.
pub fn fixture(name: impl AsRef<Path>) -> PathBuf {
    let root = std::env::var_os("QLORA_FIXTURES").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures")),
        PathBuf::from,
    );
    root.join(name)
}

/// The bytes of the recorded file `name`.
///
/// # Panics
/// If it cannot be read; the text names it.
#[track_caller]
pub fn read_fixture(name: impl AsRef<Path>) -> Vec<u8> {
    let path = fixture(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The recorded JSON file `name`.
///
/// # Panics
/// If it cannot be read or is no JSON; the text names it.
#[track_caller]
pub fn json(name: &str) -> Value {
    serde_json::from_slice(&read_fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recordings_are_found_from_the_workspace() {
        assert!(fixture("tiny_llama").join("config.json").is_file());
        assert!(json("adamw.json")["betas"].is_array());
    }

    #[test]
    #[should_panic(expected = "there/is/none.json")]
    fn a_missing_recording_is_named() {
        read_fixture("there/is/none.json");
    }
}
