use std::path::PathBuf;

/// The file of Gemma 3 270M as a Q4_K_M GGUF: the one that the environment variable `QLORA_GEMMA3` names, else the one that
/// `scripts/fetch-gemma3.sh` puts into the cache folder.
///
/// # Panics
/// If it is not there; the text says how to come by it.
#[track_caller]
pub fn gemma3() -> PathBuf {
    let path = path();
    assert!(
        path.is_file(),
        "{} is not there: run scripts/fetch-gemma3.sh, or name the file in QLORA_GEMMA3",
        path.display()
    );
    path
}

fn path() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    var("QLORA_GEMMA3").unwrap_or_else(|| {
        let home = || var("HOME").unwrap_or_default().join(".cache");
        let cache = var("XDG_CACHE_HOME").unwrap_or_else(home);
        cache.join("burn-qlora/gemma-3-270m.gguf")
    })
}
