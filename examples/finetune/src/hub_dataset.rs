//! A data set by its name on the Hugging Face Hub: `hf://datasets/OWNER/NAME`, with `@REVISION` and a file or folder.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::console::tell;
use crate::report;

/// What such a name begins with.
const SCHEME: &str = "hf://";

/// Returns the files that `--data` names: those of a data set on the Hub are brought here if need be, anything else is a
/// path as it is.
///
/// # Errors
/// A name that is none, a Hub that does not answer or has no such data set, and a data set without files that are read.
pub fn resolve(name: &Path) -> Result<Vec<PathBuf>> {
    match name.to_str().filter(|name| name.starts_with(SCHEME)) {
        Some(name) => fetch(name, &HubDataset::parse(name)?),
        None => Ok(vec![name.to_path_buf()]),
    }
}

/// A data set on the Hub.
#[derive(Debug, PartialEq, Eq)]
struct HubDataset {
    /// `owner/name`, or the name alone of one of the first data sets.
    repo: String,
    /// A branch, tag or commit.
    revision: String,
    /// A file or folder in it.
    part: Option<String>,
}

impl HubDataset {
    fn parse(name: &str) -> Result<Self> {
        let parsed = name
            .strip_prefix("hf://datasets/")
            .and_then(Self::parse_path);
        match parsed {
            Some(dataset) => Ok(dataset),
            None => bail!(
                "--data {name}: this is no data set of the Hub; they are named as hf://datasets/OWNER/NAME, with \
                 @REVISION and /FILE or /FOLDER behind it if need be"
            ),
        }
    }

    fn parse_path(path: &str) -> Option<Self> {
        let path = path.trim_end_matches('/');
        let (repo, revision, part) = match path.split_once('@') {
            Some((repo, rest)) => {
                let (revision, part) = revision(rest);
                (repo.to_owned(), revision, part)
            }
            None => {
                let ends = path.match_indices('/').nth(1);
                let (repo, part) = match ends {
                    Some((end, _)) => (&path[..end], Some(path[end + 1..].to_owned())),
                    None => (path, None),
                };
                (repo.to_owned(), "main".to_owned(), part)
            }
        };
        let plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let inside = |part: &String| part.split('/').all(|name| !["", ".", ".."].contains(&name));
        let is_whole = repo.split('/').count() <= 2
            && repo.split('/').all(plain)
            && !revision.is_empty()
            && part.as_ref().is_none_or(inside);
        is_whole.then_some(Self {
            repo,
            revision,
            part,
        })
    }
}

/// Returns a revision, and the file or folder behind it. The branches that the Hub itself writes have slashes.
fn revision(text: &str) -> (String, Option<String>) {
    let len = match text.strip_prefix("refs/") {
        Some(rest) => {
            let name = rest.match_indices('/').nth(1);
            "refs/".len() + name.map_or(rest.len(), |(end, _)| end)
        }
        None => text.find('/').unwrap_or(text.len()),
    };
    let part = text[len..].strip_prefix('/').map(str::to_owned);
    let revision = match &text[..len] {
        "~parquet" => "refs/convert/parquet".to_owned(),
        plain => plain.replace("%2F", "/"),
    };
    (revision, part)
}

#[cfg(not(feature = "hub"))]
fn fetch(name: &str, _: &HubDataset) -> Result<Vec<PathBuf>> {
    bail!(
        "--data {name}: this finetune was built without the feature `hub`, so it cannot be fetched from the Hugging \
         Face Hub"
    )
}

/// Downloads the files, unless the cache has them.
#[cfg(feature = "hub")]
fn fetch(name: &str, dataset: &HubDataset) -> Result<Vec<PathBuf>> {
    use crate::hub::HubRepo;
    use anyhow::anyhow;
    use hf_hub::{Repo, RepoType};

    let (repo, revision) = (dataset.repo.clone(), dataset.revision.clone());
    let repo = Repo::with_revision(repo, RepoType::Dataset, revision);
    let hub = HubRepo::new(format!("--data {name}"), repo)?;
    let listed = match hub.files() {
        Ok(listed) => listed,
        // Without a network the cache may still have the file.
        Err(error) => {
            let file = dataset.part.as_deref();
            let file = file.and_then(|file| hub.cached(file));
            return match file {
                Some(file) => Ok(vec![file]),
                None => bail!(
                    "--data {name}: the Hugging Face Hub does not give this data set: {error}; check the name and the \
                     network (HF_ENDPOINT, HF_HOME, HF_TOKEN)"
                ),
            };
        }
    };
    let files =
        wanted(&listed, dataset.part.as_deref()).map_err(|e| anyhow!("--data {name}: {e}"))?;
    if files.len() > 1 || dataset.part.is_none() {
        tell!("{name}: {}", report::words(&files.join(", ")));
    }
    files.iter().map(|file| hub.get(file)).collect()
}

/// Returns the files to read of those a data set has: the file or the folder that is named; else those of the split
/// `train`, or all where no name tells a split.
#[cfg(feature = "hub")]
fn wanted(listed: &[String], part: Option<&str>) -> Result<Vec<String>, String> {
    if let Some(part) = part
        && listed.iter().any(|file| file == part)
    {
        return Ok(vec![part.to_owned()]);
    }
    let folder = part.map(|part| format!("{part}/")).unwrap_or_default();
    let mut files: Vec<String> = listed
        .iter()
        .filter(|file| file.starts_with(&folder) && burn_finetune::is_data_file(file))
        .cloned()
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(match part {
            Some(part) => format!("it has no file or folder {part} with data that is read"),
            None => "it has no file of data that is read; it may be made by a script: try @refs/convert/parquet behind \
                     its name"
                .to_owned(),
        });
    }
    let inner = |file: &String| file[folder.len()..].to_owned();
    if files.iter().any(|file| split(&inner(file)).is_some()) {
        files.retain(|file| split(&inner(file)) == Some("train"));
        if files.is_empty() {
            return Err(
                "it has no split `train`; name a file or a folder of it behind its name".to_owned(),
            );
        }
    }
    let folder_of = |file: &String| {
        file.rsplit_once('/')
            .map_or("", |(folder, _)| folder)
            .to_owned()
    };
    let mut folders: Vec<String> = files.iter().map(folder_of).collect();
    folders.dedup();
    if folders.len() > 1 {
        return Err(format!(
            "it has data in several folders; name one of them behind its name: {}",
            folders.join(", ")
        ));
    }
    let ending = |file: &String| file.rsplit('.').next().unwrap_or_default().to_owned();
    if files.iter().any(|file| ending(file) != ending(&files[0])) {
        return Err(format!(
            "it has files of several formats; name one of them behind its name: {}",
            files.join(", ")
        ));
    }
    Ok(files)
}

/// Returns the split that a file's name or one of its folders' tells, by the words that the library datasets knows.
#[cfg(feature = "hub")]
fn split(file: &str) -> Option<&'static str> {
    const WORDS: [(&str, &str); 9] = [
        ("train", "train"),
        ("training", "train"),
        ("test", "test"),
        ("testing", "test"),
        ("eval", "test"),
        ("evaluation", "test"),
        ("validation", "validation"),
        ("valid", "validation"),
        ("dev", "validation"),
    ];
    let words = file
        .rsplit('/')
        .flat_map(|name| name.split(|c: char| !c.is_ascii_alphanumeric()));
    let mut splits = words.filter_map(|word| {
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let known = WORDS
            .iter()
            .find(|(known, _)| word.eq_ignore_ascii_case(known));
        known.map(|(_, split)| *split)
    });
    splits.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> Option<(String, String, Option<String>)> {
        let dataset = HubDataset::parse(name).ok()?;
        Some((dataset.repo, dataset.revision, dataset.part))
    }

    #[test]
    fn names_have_a_revision_and_a_part() {
        for (name, repo, revision, part) in [
            ("hf://datasets/a/b", "a/b", "main", None),
            ("hf://datasets/squad", "squad", "main", None),
            ("hf://datasets/a/b/", "a/b", "main", None),
            ("hf://datasets/a/b@v1", "a/b", "v1", None),
            (
                "hf://datasets/a/b/data/x.csv",
                "a/b",
                "main",
                Some("data/x.csv"),
            ),
            ("hf://datasets/a/b@v1/x.csv", "a/b", "v1", Some("x.csv")),
            (
                "hf://datasets/a/b@refs/convert/parquet/default/train",
                "a/b",
                "refs/convert/parquet",
                Some("default/train"),
            ),
            (
                "hf://datasets/a/b@~parquet",
                "a/b",
                "refs/convert/parquet",
                None,
            ),
            ("hf://datasets/a/b@refs%2Fpr%2F1", "a/b", "refs/pr/1", None),
        ] {
            let expected = (
                repo.to_owned(),
                revision.to_owned(),
                part.map(str::to_owned),
            );
            assert_eq!(parsed(name), Some(expected), "{name}");
        }
        for name in [
            "hf://a/b",
            "hf://datasets/",
            "hf://datasets/a/b@",
            "hf://datasets/a/b/../c",
            "hf://datasets//b",
        ] {
            assert_eq!(parsed(name), None, "{name}");
        }
        let path = Path::new("a/b@v1");
        assert_eq!(resolve(path).unwrap(), [path]);
    }

    #[cfg(feature = "hub")]
    #[test]
    fn the_training_split_is_taken() {
        let wanted = |files: &[&str], part: Option<&str>| {
            let listed: Vec<String> = files.iter().map(|file| file.to_string()).collect();
            wanted(&listed, part)
        };
        let whole = [
            "README.md",
            "data/test-00000-of-00001.parquet",
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
        ];
        let train = [
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
        ];
        assert_eq!(wanted(&whole, None).unwrap(), train);
        assert_eq!(wanted(&whole, Some("data")).unwrap(), train);
        assert_eq!(
            wanted(&whole, Some("data/test-00000-of-00001.parquet"))
                .unwrap()
                .len(),
            1
        );
        assert_eq!(wanted(&["rows.jsonl"], None).unwrap(), ["rows.jsonl"]);
        let parts = [
            "en/train/0.parquet",
            "de/train/0.parquet",
            "de/test/0.parquet",
        ];
        assert!(
            wanted(&parts, None)
                .unwrap_err()
                .contains("de/train, en/train")
        );
        assert_eq!(
            wanted(&parts, Some("de/test")).unwrap(),
            ["de/test/0.parquet"]
        );
        assert_eq!(wanted(&parts, Some("de")).unwrap(), ["de/train/0.parquet"]);
        for (files, part, expected) in [
            (&["script.py"][..], None, "refs/convert/parquet"),
            (&["test.csv"], None, "no split `train`"),
            (&["a.csv"], Some("b"), "no file or folder b"),
            (&["a.csv", "a.jsonl"], None, "several formats"),
        ] {
            assert!(wanted(files, part).unwrap_err().contains(expected));
        }
    }
}
