//! Numbers of JSON as they are written: serde_json reads them to within a bit, unless its feature `float_roundtrip` is on, which
//! would be on for all that depend on it.

/// Returns the number behind the first `key` in the text of an object.
pub fn exact_number(json: &str, key: &str) -> Option<f64> {
    let key = format!("\"{key}\":");
    let (_, text) = json.split_once(&key)?;
    text.split([',', '}', '\n']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_its_last_bit() {
        let text = "{\"nll_loss\":3.5,\"loss\":1.2347835302352905,\"tokens\": 7}";
        assert_eq!(exact_number(text, "loss"), Some(1.2347835302352905));
        assert_eq!(exact_number(text, "tokens"), Some(7.0));
        assert_eq!(exact_number(text, "lr"), None);
        let read: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_ne!(read["loss"].as_f64(), Some(1.2347835302352905));
    }
}
