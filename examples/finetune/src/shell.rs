//! Command lines to be pasted into a shell.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;

/// Returns the command line that goes on with this run.
pub fn resume_command(arguments: impl Iterator<Item = OsString>) -> String {
    let mut words: Vec<String> = arguments.map(|word| quoted(&word)).collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_string());
    }
    words.join(" ")
}

/// A word as a POSIX shell reads it back. Control characters and bytes that are not UTF-8, as names of files may have, stand
/// as escapes in the form `$'…'`, which can be printed and pasted (POSIX 2024; bash, zsh, ksh).
pub fn quoted(word: &OsStr) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_string(),
        Some(text) if !text.contains(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => escaped(word.as_encoded_bytes()),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut word = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '\\' => word.extend(['\\', c]),
                c if c.is_control() => escape(&mut word, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => word.push(c),
            }
        }
        escape(&mut word, chunk.invalid());
    }
    word + "'"
}

/// Appends bytes in octal: of three digits always, so that a digit behind them is none of theirs.
fn escape(word: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(word, "\\{byte:03o}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_on_can_be_pasted() {
        let words = [
            "finetune",
            "train",
            "--data",
            "my notes.jsonl",
            "--output",
            "it's",
        ];
        assert_eq!(
            resume_command(words.iter().map(OsString::from)),
            r"finetune train --data 'my notes.jsonl' --output 'it'\''s' --resume"
        );
        let again = ["finetune", "train", "--resume"].map(OsString::from);
        assert_eq!(resume_command(again.into_iter()), "finetune train --resume");
    }

    #[cfg(unix)]
    #[test]
    fn bash_reads_every_name_back() {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        for name in [
            &b"o\xff7"[..],
            b"it's\xfe\\",
            b"two\nlines\x1b[31m",
            b"\xc3\xa4",
            b"",
        ] {
            let quoted = quoted(OsStr::from_bytes(name));
            assert!(!quoted.contains(char::is_control), "{quoted}");
            let mut command = std::process::Command::new("bash");
            let read = command
                .args(["-c", &format!("printf %s {quoted}")])
                .output();
            assert_eq!(
                OsString::from_vec(read.unwrap().stdout),
                OsStr::from_bytes(name)
            );
        }
    }
}
