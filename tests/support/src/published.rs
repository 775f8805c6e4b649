use std::path::{Path, PathBuf};

use crate::fixtures::fixture;

/// The file of SmolLM2-135M-Instruct as a Q4_1 GGUF: the one that the environment variable `QLORA_SMOLLM2` names, else the one
/// that `scripts/fetch-smollm2.sh` puts into the cache folder.
///
/// # Panics
/// If it is not there; the text says how to come by it.
#[track_caller]
pub fn smollm2() -> PathBuf {
    published(
        "QLORA_SMOLLM2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "scripts/fetch-smollm2.sh",
    )
}

/// The file of Gemma 3 270M as a Q4_K_M GGUF: the one that the environment variable `QLORA_GEMMA3` names, else the one that
/// `scripts/fetch-gemma3.sh` puts into the cache folder.
///
/// # Panics
/// If it is not there; the text says how to come by it.
#[track_caller]
pub fn gemma3() -> PathBuf {
    published(
        "QLORA_GEMMA3",
        "gemma-3-270m.gguf",
        "scripts/fetch-gemma3.sh",
    )
}

/// The folder of published tokenizers: the one that the environment variable `QLORA_TOKENIZERS` names, else the one that
/// `scripts/fetch-tokenizers.sh` puts into the cache folder.
///
/// # Panics
/// If it is not there; the text says how to come by it.
#[track_caller]
pub fn tokenizers() -> PathBuf {
    published(
        "QLORA_TOKENIZERS",
        "tokenizers",
        "scripts/fetch-tokenizers.sh",
    )
}

/// Makes a model directory in `directory`: the tokenizer that is called `name` among the [`tokenizers`], and the weights of a
/// recorded model that is none of the tokenizer's.
///
/// # Panics
/// If a file cannot be copied.
#[track_caller]
pub fn directory_with_tokenizer(directory: &Path, name: &str) {
    let files = [
        (
            tokenizers().join(name),
            ["tokenizer.json", "tokenizer_config.json"],
        ),
        (fixture("tiny_llama"), ["config.json", "model.safetensors"]),
    ];
    for (source, names) in files {
        for name in names {
            let from = source.join(name);
            std::fs::copy(&from, directory.join(name))
                .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
    }
}

#[track_caller]
fn published(variable: &str, name: &str, script: &str) -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let path = var(variable).unwrap_or_else(|| {
        let home = || var("HOME").unwrap_or_default().join(".cache");
        let cache = var("XDG_CACHE_HOME").unwrap_or_else(home);
        cache.join("burn-qlora").join(name)
    });
    assert!(
        path.exists(),
        "{} is not there: run {script}, or name it in {variable}",
        path.display()
    );
    path
}
