use std::path::PathBuf;

/// The file of SmolLM2-135M-Instruct as a Q4_1 GGUF: the one that the environment variable `QLORA_SMOLLM2` names, else the one
/// that `scripts/fetch-smollm2.sh` puts into the cache folder.
///
/// # Panics
/// If it is not there; the text says how to come by it.
#[track_caller]
pub fn smollm2() -> PathBuf {
    let path = path();
    assert!(
        path.is_file(),
        "{} is not there: run scripts/fetch-smollm2.sh, or name the file in QLORA_SMOLLM2",
        path.display()
    );
    path
}

fn path() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    var("QLORA_SMOLLM2").unwrap_or_else(|| {
        let home = || var("HOME").unwrap_or_default().join(".cache");
        let cache = var("XDG_CACHE_HOME").unwrap_or_else(home);
        cache.join("burn-qlora/SmolLM2-135M-Instruct.Q4_1.gguf")
    })
}
