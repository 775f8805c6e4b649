//! What the macros accept and what they refuse, by the compiler's own words: each file of `cases` is compiled as a crate, and its
//! errors are those that the comments `//~` tell of their lines. `cases/traits.rs` stands in for burn-qlora, so that nothing
//! else is built.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn every_shape_of_a_module_is_walked_into() {
    assert_told("accepted.rs");
}

#[test]
fn what_attributes_cannot_say_is_told_where_they_say_it() {
    assert_told("attributes.rs");
}

#[test]
fn what_is_no_module_is_told_at_its_field() {
    assert_told("types.rs");
}

/// Compiles `cases/name`, and compares the lines and messages of its errors.
#[track_caller]
fn assert_told(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(name);
    let text = std::fs::read_to_string(&file).unwrap();
    let expected: BTreeMap<usize, &str> = text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| Some((index + 1, line.split_once("//~ ")?.1)))
        .collect();
    assert!(
        expected.is_empty() == (name == "accepted.rs"),
        "{name} expects {expected:?}"
    );

    let macros = macros();
    let compiled = env::temp_dir().join(format!("burn-qlora-derive-{}-{name}", std::process::id()));
    let output = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition=2024", "--crate-type=lib", "--crate-name=case"])
        .args(["--emit=metadata", "--error-format=short", "-Adead_code"])
        .arg("-o")
        .arg(&compiled)
        .arg("-L")
        .arg(macros.parent().unwrap())
        .arg("--extern")
        .arg(format!("burn_qlora_derive={}", macros.display()))
        .arg(&file)
        .output()
        .expect("the compiler should run");
    let _ = std::fs::remove_file(&compiled);
    let told = String::from_utf8_lossy(&output.stderr);
    // What a type lacks is lacked by both walks over it.
    let found: BTreeMap<usize, &str> = told.lines().filter_map(|line| error(line, &file)).collect();
    assert_eq!(found, expected, "{told}");
    assert_eq!(output.status.success(), expected.is_empty(), "{told}");
}

/// Returns line and message of an error in `file`, of a line `FILE:LINE:COLUMN: error[CODE]: MESSAGE`.
fn error<'a>(told: &'a str, file: &Path) -> Option<(usize, &'a str)> {
    let place = told.strip_prefix(file.to_str()?)?.strip_prefix(':')?;
    let (place, message) = place.split_once(": ")?;
    let (line, _column) = place.split_once(':')?;
    let message = message.strip_prefix("error")?.split_once(": ")?.1;
    Some((line.parse().ok()?, message))
}

/// Returns the library with the macros that this test was built with: the latest beside it.
fn macros() -> PathBuf {
    let here = env::current_exe().unwrap();
    let name = format!("{}burn_qlora_derive-", env::consts::DLL_PREFIX);
    let is_ours = |path: &PathBuf| {
        path.extension()
            .is_some_and(|it| it == env::consts::DLL_EXTENSION)
            && path
                .file_name()
                .is_some_and(|it| it.to_string_lossy().starts_with(&name))
    };
    let entries = std::fs::read_dir(here.parent().unwrap()).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(is_ours)
        .max_by_key(|path| path.metadata().unwrap().modified().unwrap())
        .expect("the macros should lie beside their test")
}
