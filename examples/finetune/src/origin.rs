//! Where a run comes from: what `run.json` holds so that the run can be done again.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use burn_finetune::RunRecord;
use serde::{Deserialize, Serialize};
use tensor_files::Checksum;

use crate::opened_model::OpenedModel;
use crate::progress;
use crate::run::TrainRun;
use crate::shell::quoted;

/// Where a run comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The program.
    #[serde(flatten)]
    pub program: Program,
    /// The folder that the paths among the arguments start from.
    pub directory: String,
    /// What stood behind `finetune train`, with the flags of a config file.
    pub arguments: Vec<String>,
    /// The files that were read.
    pub files: Vec<OriginFile>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// The XXH3 of its file, in hexadecimal, where it can be read.
    pub program: Option<String>,
}

/// A file that a run reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginFile {
    /// What it is of: `model`, `data`, `chat-template` or `init-adapter`.
    pub of: String,
    /// Where it is.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The XXH3 of all of it, in hexadecimal.
    pub checksum: String,
}

impl Origin {
    /// The key among the settings of a run.
    pub const KEY: &str = "origin";

    /// Looks at all that `run` reads.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn look(run: &TrainRun, opened: &OpenedModel, adapter: Option<&Path>) -> Result<Self> {
        let arguments = run.arguments.iter();
        let directory = std::env::current_dir().context("the working directory")?;
        Ok(Self {
            program: Program::running(),
            directory: directory.to_string_lossy().into_owned(),
            arguments: arguments
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect(),
            files: files(run, opened, adapter)?,
        })
    }

    /// Returns that of a run.
    ///
    /// # Errors
    /// A run that was started by a version that did not write it down, and a record that is none.
    pub fn of(record: &RunRecord) -> Result<Self> {
        let run = record.path().display();
        let origin = record.origin().with_context(|| {
            format!(
                "{run}/run.json has no \"{}\", the arguments and the checksums of the files that a run is done again from: the \
                 run was started by an older version; --resume goes on with it",
                Self::KEY
            )
        })?;
        let read = serde_json::from_value(origin.clone());
        read.map_err(|error| anyhow!("{run}/run.json: \"{}\" is none: {error}", Self::KEY))
    }

    /// Returns the command line.
    pub fn command(&self) -> String {
        let words = self.arguments.iter().map(|word| quoted(OsStr::new(word)));
        let words = ["finetune".to_owned(), "train".to_owned()]
            .into_iter()
            .chain(words);
        words.collect::<Vec<_>>().join(" ")
    }

    /// Returns where a file or folder of the arguments is: as it was named from the run's working directory, where there is such,
    /// else as it is named.
    pub fn located(&self, name: impl AsRef<Path>) -> PathBuf {
        let there = Path::new(&self.directory).join(name.as_ref());
        match there.exists() {
            true => there,
            false => name.as_ref().to_owned(),
        }
    }

    /// Returns what of `files` is not as the run read it, a sentence each.
    pub fn differences(&self, files: &[OriginFile]) -> Vec<String> {
        let mut told = Vec::new();
        for of in ["model", "data", "chat-template", "init-adapter"] {
            let [was, now] = [self.files.as_slice(), files].map(|files| {
                let files = files.iter().filter(|file| file.of == of);
                files.collect::<Vec<_>>()
            });
            let mut known = Vec::new();
            for (place, file) in was.iter().enumerate() {
                // Files may have moved, and one may have another name.
                let found = counterpart(file, place, &now, now.len() == was.len());
                let Some(found) = found else {
                    told.push(format!("{of}: {} is missing", file.path));
                    continue;
                };
                known.push(found);
                if (file.bytes, &file.checksum) != (found.bytes, &found.checksum) {
                    told.push(format!(
                        "{of}: {} is another file: {} bytes with the checksum {}, which were {} with {}",
                        found.path, found.bytes, found.checksum, file.bytes, file.checksum
                    ));
                }
            }
            let others = now.iter().filter(|file| !known.contains(*file));
            told.extend(others.map(|file| format!("{of}: {} was not read then", file.path)));
        }
        told
    }
}

/// Returns the file among `now` that `file`, at `place` among those of the run, is today.
fn counterpart<'a>(
    file: &OriginFile,
    place: usize,
    now: &[&'a OriginFile],
    as_many: bool,
) -> Option<&'a OriginFile> {
    let is_same = |one: &&&OriginFile| one.name() == file.name();
    let at_place = now.get(place);
    let found = at_place
        .filter(is_same)
        .or_else(|| now.iter().find(is_same));
    found.or(at_place.filter(|_| as_many)).copied()
}

impl Program {
    /// Returns the one that is running.
    pub fn running() -> Self {
        let file = std::env::current_exe().ok();
        let checksum = file.and_then(|file| Checksum::of_file(&file).ok());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: checksum.map(|checksum| format!("{checksum:016x}")),
        }
    }

    /// Returns what is otherwise than in `other`, if something is.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let version = &other.version;
        if self.version != *version {
            return Some(format!(
                "the run was started by finetune {}, and this is {version}",
                self.version
            ));
        }
        let is_same = self.program.is_none() || self.program == other.program;
        (!is_same).then(|| format!("the run was started by another build of finetune {version}"))
    }
}

impl OriginFile {
    fn read(of: &str, path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let metadata = fs::metadata(path)?;
            ensure!(metadata.is_file(), "this is no file");
            Ok(Self {
                of: of.to_owned(),
                path: std::path::absolute(path)?.to_string_lossy().into_owned(),
                bytes: metadata.len(),
                checksum: format!("{:016x}", Checksum::of_file(path)?),
            })
        };
        read().with_context(|| format!("{of} {}", path.display()))
    }

    fn name(&self) -> Option<&OsStr> {
        Path::new(&self.path).file_name()
    }
}

/// Returns the files that `run` reads, with `adapter`, the weights of the one it starts from.
///
/// # Errors
/// One that cannot be read.
pub fn files(
    run: &TrainRun,
    opened: &OpenedModel,
    adapter: Option<&Path>,
) -> Result<Vec<OriginFile>> {
    let template = run.training.model.chat_template.as_ref();
    // A pipe cannot be read again.
    let template = template.and_then(|template| template.file());
    let template = template.filter(|file| file.is_file());
    let spinner = progress::spinner("read the files of the run for their checksums".into());
    let mut files = Vec::new();
    for (of, paths) in [
        ("model", opened.checkpoint.files()),
        ("data", run.data.sources()?.paths()?),
        ("chat-template", template.into_iter().collect()),
        (
            "init-adapter",
            adapter.into_iter().map(Path::to_owned).collect(),
        ),
    ] {
        for path in paths {
            files.push(OriginFile::read(of, &path)?);
        }
    }
    spinner.finish_and_clear();
    Ok(files)
}

/// Returns the arguments of `finetune train` behind these words among all that the program was given.
pub fn of_train(arguments: &[OsString]) -> Vec<OsString> {
    let name = arguments.iter().position(|argument| argument == "train");
    name.map_or_else(Vec::new, |name| arguments[name + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(of: &str, path: &str, checksum: &str) -> OriginFile {
        OriginFile {
            of: of.into(),
            path: path.into(),
            bytes: 3,
            checksum: checksum.into(),
        }
    }

    fn origin(files: Vec<OriginFile>) -> Origin {
        Origin {
            program: Program {
                version: "1.0.0".into(),
                program: Some("a".into()),
            },
            directory: "/there".into(),
            arguments: vec!["--model".into(), "my model".into()],
            files,
        }
    }

    #[test]
    fn files_that_moved_are_the_same_and_others_are_told() {
        let was = origin(vec![
            file("model", "/a/config.json", "1"),
            file("model", "/a/model.safetensors", "2"),
            file("data", "/a/rows.jsonl", "3"),
        ]);
        assert_eq!(was.differences(&was.files), Vec::<String>::new());
        let moved = [
            file("model", "/b/config.json", "1"),
            file("model", "/b/model.safetensors", "2"),
            file("data", "/b/other-name.jsonl", "3"),
        ];
        assert_eq!(was.differences(&moved), Vec::<String>::new());
        let told = was.differences(&[
            file("model", "/b/model.safetensors", "9"),
            file("data", "/b/rows.jsonl", "3"),
            file("data", "/b/more.jsonl", "4"),
        ]);
        assert_eq!(told.len(), 3, "{told:?}");
        for needle in [
            "/a/config.json is missing",
            "/b/model.safetensors is another file",
            "/b/more.jsonl was not read then",
        ] {
            assert!(told.iter().any(|one| one.contains(needle)), "{told:?}");
        }
    }

    #[test]
    fn another_program_is_told() {
        let program = |version: &str, program: Option<&str>| Program {
            version: version.into(),
            program: program.map(str::to_owned),
        };
        let was = program("1.0.0", Some("a"));
        assert_eq!(was.difference(&was), None);
        let told = was.difference(&program("1.0.0", Some("b")));
        assert!(told.unwrap().contains("another build of finetune 1.0.0"));
        let told = was.difference(&program("1.1.0", Some("b")));
        assert!(told.unwrap().contains("finetune 1.0.0, and this is 1.1.0"));
        assert_eq!(program("1.0.0", None).difference(&was), None);
    }

    #[test]
    fn the_command_can_be_pasted() {
        let command = origin(Vec::new()).command();
        assert_eq!(command, "finetune train --model 'my model'");
        let all = ["finetune", "train", "--model", "train"].map(OsString::from);
        assert_eq!(of_train(&all), ["--model", "train"]);
    }
}
