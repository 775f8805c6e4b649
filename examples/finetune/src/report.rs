//! Errors for people: one line, whatever libraries it came through.

/// The error and its causes on one line. A cause that the text before it repeats already is left out,
/// since some libraries write their causes into their own message.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = words(&cause.to_string());
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

/// The text with a space wherever it has space of any kind, so that it is one line.
pub fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_follow_once_each_on_one_line() {
        let cause = std::io::Error::other("disk\nfull");
        let error = Err::<(), _>(cause)
            .context("save: disk full")
            .context("step 3")
            .unwrap_err();
        assert_eq!(one_line(&error), "step 3: save: disk full");
    }
}
