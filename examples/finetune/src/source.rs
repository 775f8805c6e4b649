//! The source of a model: a directory, a .gguf file, or the Hugging Face Hub.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn_qlora_llama::Checkpoint;

use crate::console::tell;
use crate::report;

/// Opens the model that `--model` names, and says on the error stream what the user should hear of it.
///
/// # Errors
/// What [`resolve`] refuses, and a model that cannot be read.
pub fn open(model: &str) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(resolve(model)?)?;
    for warning in checkpoint.warnings() {
        tell!("warning: {}", report::words(warning));
    }
    Ok(checkpoint)
}

/// Finds the model that `--model` names and brings it here if need be: an existing path is taken
/// as it is, anything of the form `owner/name`, `owner/name@revision` or `owner/name/file.gguf` is
/// a model of the Hub.
///
/// # Errors
/// Neither a path nor a Hub id, a Hub that does not answer or has no such model, or a Hub model
/// without files that can be read here.
pub fn resolve(model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    match path.symlink_metadata() {
        Ok(_) => return Ok(path.to_path_buf()),
        Err(error) if is_missing(&error) => {}
        // A folder that may not be entered says nothing of what is in it.
        Err(error) => bail!("model {model}: {error}"),
    }
    match HubId::parse(model) {
        Some(id) => fetch(&id),
        None => bail!(
            "model {model}: no such file or directory, and not a Hub id either (those look like \
             owner/name); give a Hugging Face directory, a .gguf file or a Hub id"
        ),
    }
}

/// Returns whether there is nothing under a path, as far as the way to it goes.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A model on the Hub.
#[derive(Debug, PartialEq, Eq)]
struct HubId {
    /// `owner/name`.
    repo: String,
    /// A branch, tag or commit.
    revision: String,
    /// One file of the repository, where it holds several models.
    file: Option<String>,
}

impl HubId {
    fn parse(text: &str) -> Option<Self> {
        let (text, revision) = text.split_once('@').unwrap_or((text, "main"));
        let mut parts = text.splitn(3, '/');
        let (owner, name, file) = (parts.next()?, parts.next()?, parts.next());
        let plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let whole = file.is_none_or(|file| file.ends_with(".gguf"));
        (plain(owner) && plain(name) && whole && !revision.is_empty()).then(|| Self {
            repo: format!("{owner}/{name}"),
            revision: revision.to_string(),
            file: file.map(str::to_string),
        })
    }
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &HubId) -> Result<PathBuf> {
    bail!(
        "model {}: no such path, and this finetune was built without the feature `hub`, so it \
         cannot be fetched from the Hugging Face Hub",
        id.repo
    )
}

/// Downloads what the loader reads, unless the cache has it, and returns the snapshot's directory
/// or the .gguf file in it.
#[cfg(feature = "hub")]
fn fetch(id: &HubId) -> Result<PathBuf> {
    use crate::hub::HubRepo;
    use anyhow::Context;
    use hf_hub::{Repo, RepoType};

    let repo = Repo::with_revision(id.repo.clone(), RepoType::Model, id.revision.clone());
    let hub = HubRepo::new(format!("model {}", id.repo), repo)?;
    let listed = match hub.files() {
        Ok(listed) => listed,
        // Without a network the cache may still have the model.
        Err(error) => {
            let known = id.file.as_deref().unwrap_or("config.json");
            return match (hub.cached(known), &id.file) {
                (Some(file), Some(_)) => Ok(file),
                (Some(config), None) => Ok(directory_of(&config)),
                (None, _) => bail!(
                    "model {}: no such path here, and the Hugging Face Hub does not give it: \
                     {error}; check the name and the network (HF_ENDPOINT, HF_HOME)",
                    id.repo
                ),
            };
        }
    };
    match wanted(&listed, id.file.as_deref()) {
        Wanted::Gguf(parts) => {
            let paths: Vec<PathBuf> = parts
                .iter()
                .map(|part| hub.get(part))
                .collect::<Result<_>>()?;
            paths.into_iter().next().context("no part of a file")
        }
        Wanted::Directory(files) => {
            for file in &files {
                hub.get(file)?;
            }
            Ok(directory_of(&hub.get("config.json")?))
        }
        Wanted::Choice(files) => bail!(
            "model {}: it holds several GGUF files; name one of them, say {}/{}",
            id.repo,
            id.repo,
            files[0]
        ),
        Wanted::Nothing => bail!(
            "model {}: it has neither safetensors with a config.json nor a GGUF file{}{}",
            id.repo,
            id.file
                .as_ref()
                .map(|file| format!(" {file}"))
                .unwrap_or_default(),
            instead(&listed)
        ),
    }
}

#[cfg(feature = "hub")]
fn directory_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(file).to_path_buf()
}

/// The files of a repository that make up the model.
#[cfg(feature = "hub")]
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// A Hugging Face directory of these files.
    Directory(Vec<String>),
    /// The parts of one GGUF file, the first one first; mostly there is one.
    Gguf(Vec<String>),
    /// Several GGUF files, of which the user must name one.
    Choice(Vec<String>),
    /// Nothing that can be read.
    Nothing,
}

#[cfg(feature = "hub")]
fn wanted(listed: &[String], file: Option<&str>) -> Wanted {
    if let Some(file) = file {
        return if listed.iter().any(|listed| listed == file) {
            Wanted::Gguf(parts(listed, file))
        } else {
            Wanted::Nothing
        };
    }
    let small = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    ];
    // Only files at the top: subdirectories hold other forms of the same weights.
    let weights = |file: &str| {
        !file.contains('/') && file.starts_with("model") && file.ends_with(".safetensors")
    };
    if listed.iter().any(|f| f == "config.json") && listed.iter().any(|f| weights(f)) {
        let files = listed
            .iter()
            .filter(|file| small.contains(&file.as_str()) || weights(file))
            .cloned();
        return Wanted::Directory(files.collect());
    }
    // What turns images into embeddings, and statistics, lie beside models.
    let goes_with_one = |file: &str| file.contains("mmproj") || file.contains("imatrix");
    let mut ggufs: Vec<String> = listed
        .iter()
        .filter(|file| file.ends_with(".gguf") && !goes_with_one(file))
        .filter(|file| parts(listed, file).first() == Some(*file))
        .cloned()
        .collect();
    match ggufs.len() {
        0 => Wanted::Nothing,
        1 => Wanted::Gguf(parts(listed, &ggufs.remove(0))),
        _ => Wanted::Choice(ggufs),
    }
}

/// Returns the parts of the GGUF file of which `file` is one, `NAME-00001-of-00003.gguf` and so on; itself where it is whole.
#[cfg(feature = "hub")]
fn parts(listed: &[String], file: &str) -> Vec<String> {
    let split = |file: &str| {
        let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let is_number = |text: &str| text.len() == 5 && text.bytes().all(|c| c.is_ascii_digit());
        (is_number(number) && is_number(count)).then(|| (stem.to_owned(), count.to_owned()))
    };
    let Some(model) = split(file) else {
        return vec![file.to_owned()];
    };
    let mut parts: Vec<String> = listed
        .iter()
        .filter(|file| split(file).as_ref() == Some(&model))
        .cloned()
        .collect();
    parts.sort_unstable();
    parts
}

/// Returns in words what a repository holds in a model's place.
#[cfg(feature = "hub")]
fn instead(listed: &[String]) -> &'static str {
    let has = |name: &str| listed.iter().any(|file| file == name);
    let ends = |end: &str| listed.iter().any(|file| file.ends_with(end));
    if has("adapter_config.json") {
        "; it holds an adapter: give the model that its adapter_config.json names, and this as the adapter"
    } else if ends(".bin") || ends(".pth") || ends(".pt") {
        "; its weights are PyTorch's pickles, which are not read: save them as safetensors with transformers"
    } else if ends(".onnx") {
        "; its weights are ONNX, which is not read"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        let id = HubId::parse("HuggingFaceTB/SmolLM2-135M@v1").unwrap();
        assert_eq!(
            (id.repo.as_str(), id.revision.as_str()),
            ("HuggingFaceTB/SmolLM2-135M", "v1")
        );
        assert_eq!(
            HubId::parse("a/b/c.Q4_1.gguf").unwrap().file.as_deref(),
            Some("c.Q4_1.gguf")
        );
        for path in ["/no/such", "./a/b", "../b", "gpt2", "a/b/c", "a//b", "a/b@"] {
            assert_eq!(HubId::parse(path), None, "{path}");
        }
    }

    #[cfg(feature = "hub")]
    #[test]
    fn only_what_the_loader_reads_is_fetched() {
        let listed = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let full = listed(&[
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.onnx",
        ]);
        assert_eq!(
            wanted(&full, None),
            Wanted::Directory(listed(&["config.json", "model.safetensors"]))
        );
        assert_eq!(
            wanted(&listed(&["x.gguf", "mmproj-x.gguf"]), None),
            Wanted::Gguf(listed(&["x.gguf"]))
        );
        let split = ["x-00002-of-00002.gguf", "x-00001-of-00002.gguf"];
        let in_order = listed(&[split[1], split[0]]);
        assert_eq!(
            wanted(&listed(&split), None),
            Wanted::Gguf(in_order.clone())
        );
        let with_others = listed(&[split[0], split[1], "y-00001-of-00002.gguf", "y.gguf"]);
        assert_eq!(wanted(&with_others, Some(split[0])), Wanted::Gguf(in_order));
        assert!(matches!(wanted(&with_others, None), Wanted::Choice(files) if files.len() == 3));
        assert!(matches!(
            wanted(&listed(&["x.gguf", "y.gguf"]), None),
            Wanted::Choice(_)
        ));
        assert_eq!(
            wanted(&listed(&["x.gguf"]), Some("z.gguf")),
            Wanted::Nothing
        );
        assert_eq!(
            wanted(&listed(&["pytorch_model.bin"]), None),
            Wanted::Nothing
        );
        assert!(instead(&listed(&["pytorch_model.bin"])).contains("safetensors"));
        assert!(instead(&listed(&["adapter_config.json", "a.bin"])).contains("adapter"));
    }
}
