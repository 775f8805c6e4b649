//! What a path that is given as a model stands for: a directory, a GGUF file, or the one model that is in a folder.

use std::path::{Path, PathBuf};

use super::names::{GgufName, INDEX, Part, SINGLE, are_weights};
use super::{absent, files};
use crate::error::DecoderError;

/// A model's place on disk.
#[derive(Debug, PartialEq)]
pub(super) enum Location {
    /// A directory with config.json, or what should be one.
    Directory(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

/// Files of a directory by one of which people name it.
const OF_A_DIRECTORY: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    SINGLE,
    INDEX,
];

/// Finds the model that `path` stands for.
///
/// # Errors
/// [`DecoderError::Io`] for what cannot be looked at; [`DecoderError::NotAModel`] and [`DecoderError::Adapter`] for what is
/// there in a model's place.
pub(super) fn find(path: &Path) -> Result<Location, DecoderError> {
    let metadata = files::metadata(path)?;
    if metadata.is_dir() {
        in_folder(path)
    } else if metadata.is_file() {
        of_file(path)
    } else {
        let reason =
            "neither a directory nor a regular file; give a model's directory or a .gguf file";
        Err(DecoderError::not_a_model(path, reason))
    }
}

fn of_file(path: &Path) -> Result<Location, DecoderError> {
    let start = files::start(path)?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    if start.starts_with(b"GGUF") || GgufName::of(name).is_some() {
        return Ok(Location::Gguf(path.into()));
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if absent::is_of_an_adapter(name) {
        return Err(absent::adapter(directory));
    }
    if OF_A_DIRECTORY.contains(&name) || Part::of_shard(name).is_some() {
        return Ok(Location::Directory(directory.into()));
    }
    let what = tensor_files::recognize(&start).unwrap_or("a file of a kind that is not read");
    let reason = format!("{what}; give the directory of a model with config.json, or a .gguf file");
    Err(DecoderError::not_a_model(path, reason))
}

fn in_folder(path: &Path) -> Result<Location, DecoderError> {
    let names = files::names(path)?;
    let is_of_the_cache = |folder: &Path| {
        let has = |name| folder.join(name).is_dir();
        has("snapshots") && (has("refs") || has("blobs"))
    };
    if is_of_the_cache(path) {
        return in_directory(&snapshot(path)?);
    }
    if path.file_name().is_some_and(|name| name == "snapshots")
        && let Some(folder) = path.parent().filter(|folder| is_of_the_cache(folder))
    {
        return in_directory(&snapshot(folder)?);
    }
    choose(path, &names)
}

fn in_directory(path: &Path) -> Result<Location, DecoderError> {
    choose(path, &files::names(path)?)
}

/// Takes the directory for a model in Hugging Face's form, or the GGUF file in it where it has no weights of that form.
fn choose(path: &Path, names: &[String]) -> Result<Location, DecoderError> {
    if names.iter().any(|name| are_weights(name)) {
        return Ok(Location::Directory(path.into()));
    }
    match &models(names)[..] {
        [] => Ok(Location::Directory(path.into())),
        [one] => Ok(Location::Gguf(path.join(one))),
        [first, .., last] => {
            let reason =
                format!("it holds several GGUF files, from {first} to {last}; name one of them");
            Err(DecoderError::not_a_model(path, reason))
        }
    }
}

/// Returns the GGUF files that are models, the first part of those in parts.
fn models(names: &[String]) -> Vec<&str> {
    let mut models: Vec<(GgufName, &str)> = Vec::new();
    for name in names {
        let Some(model) = GgufName::of(name).filter(GgufName::is_a_model) else {
            continue;
        };
        // The names are in their order, and so are the parts of one model.
        let belongs = |(last, _): &(GgufName, &str)| {
            let counts = [last.part, model.part].map(|part| part.map(|part| part.count));
            last.stem == model.stem && model.part.is_some() && counts[0] == counts[1]
        };
        if !models.last().is_some_and(belongs) {
            models.push((model, name));
        }
    }
    models.into_iter().map(|(_, name)| name).collect()
}

/// Returns the snapshot in a folder of the Hub's cache: that of the branch main, or the only one.
fn snapshot(folder: &Path) -> Result<PathBuf, DecoderError> {
    let snapshots = folder.join("snapshots");
    let names = files::names(&snapshots)?;
    let main = folder.join("refs").join("main");
    let main = match files::is_there(&main)? {
        true => files::read_text(&main)?.trim().to_owned(),
        false => String::new(),
    };
    match &names[..] {
        _ if names.contains(&main) => Ok(snapshots.join(main)),
        [only] => Ok(snapshots.join(only)),
        [] => {
            let reason = "a folder of the Hub's cache without a snapshot; fetch the model again";
            Err(DecoderError::not_a_model(folder, reason))
        }
        [first, ..] => {
            let reason = format!(
                "a folder of the Hub's cache with {} snapshots; name one of them, such as {}",
                names.len(),
                snapshots.join(first).display()
            );
            Err(DecoderError::not_a_model(folder, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_told_from_what_goes_with_them() {
        let models = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            let found = models(&names).into_iter().map(str::to_owned);
            found.collect::<Vec<_>>()
        };
        assert_eq!(
            models(&["README.md", "a.gguf", "imatrix.gguf", "mmproj-a.gguf"]),
            ["a.gguf"]
        );
        assert_eq!(
            models(&["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]),
            ["a-00001-of-00002.gguf"]
        );
        assert_eq!(
            models(&[
                "a-00001-of-00002.gguf",
                "a-00002-of-00003.gguf",
                "a.gguf",
                "b.gguf"
            ])
            .len(),
            4
        );
    }
}
