//! Where the files of an adapter are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tensor_files::TensorFileError;

use crate::error::LoraError;
use crate::peft::{CONFIG_FILE, WEIGHTS_FILE};

/// The name of the weight file of mlx-lm.
pub(super) const MLX_WEIGHTS_FILE: &str = "adapters.safetensors";
/// The names that weight files have had in peft, and in mlx-lm, before safetensors.
const PICKLED: &str = "adapter_model.bin";
const NUMPY: &str = "adapters.npz";

/// An adapter as a user names it: its folder, or a file in it.
pub(super) struct Location {
    /// The folder.
    folder: PathBuf,
    /// The weight file, where it was named.
    named: Option<PathBuf>,
}

impl Location {
    /// Returns the location of the adapter at `path`: a folder, or its configuration or one of its weight files.
    ///
    /// # Errors
    /// [`LoraError::File`] when there is nothing, [`LoraError::NoAdapter`] when what is there is no adapter.
    pub(super) fn find(path: &Path) -> Result<Self, LoraError> {
        let read_error = |source| TensorFileError::Read {
            path: path.to_owned(),
            source,
        };
        let location = if fs::metadata(path).map_err(read_error)?.is_dir() {
            Self {
                folder: path.to_owned(),
                named: None,
            }
        } else {
            Self::of_file(path)?
        };
        if location.config().is_file() {
            return Ok(location);
        }
        Err(no_adapter(path, location.what_is_there()))
    }

    fn of_file(path: &Path) -> Result<Self, LoraError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let name = path.file_name().unwrap_or_default();
        let is = |extension: &str| path.extension().is_some_and(|found| found == extension);
        if is("gguf") || begins_with_gguf(path) {
            let reason = "it is a GGUF file, which needs the model that it is for to be read (--adapter with --model); or give the folder of the peft adapter \
                 that it was made from";
            return Err(no_adapter(path, reason.to_owned()));
        }
        if name == PICKLED {
            return Err(pickled(path));
        }
        let named = match () {
            () if name == CONFIG_FILE => None,
            () if is("safetensors") => Some(path.to_owned()),
            () => {
                let reason = format!("give the folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}");
                return Err(no_adapter(path, reason));
            }
        };
        Ok(Self { folder, named })
    }

    /// Returns the configuration file.
    pub(super) fn config(&self) -> PathBuf {
        self.folder.join(CONFIG_FILE)
    }

    /// Returns the weight file, which is called `usual` where none was named.
    ///
    /// # Errors
    /// [`LoraError::NoAdapter`] when there are weights in another format alone, [`LoraError::File`] when there are none.
    pub(super) fn weights(&self, usual: &str) -> Result<PathBuf, LoraError> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let path = self.folder.join(usual);
        if path.exists() {
            return Ok(path);
        }
        let beside = |name: &str| self.folder.join(name).exists();
        if beside(PICKLED) {
            return Err(pickled(&self.folder.join(PICKLED)));
        }
        let reason = if beside(NUMPY) {
            format!("there is {NUMPY}, which is not read; train or save it with a newer mlx-lm")
        } else if beside(&format!("{usual}.index.json")) {
            format!("its weights are in shards, which are not read; save them as one {usual}")
        } else if self.holds("gguf") {
            format!("there is a GGUF file; give that file, or a folder with {usual}")
        } else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(TensorFileError::Read { path, source }.into());
        };
        Err(no_adapter(&self.folder, reason))
    }

    /// Returns a word on what the folder holds in place of a configuration.
    fn what_is_there(&self) -> String {
        let checkpoints = self.folder.join("checkpoints");
        let subfolders =
            [&self.folder, &checkpoints].map(|folder| subfolders_with_adapters(folder));
        let beside = |name: &str| self.folder.join(name).exists();
        if let Some(adapter) = subfolders.iter().flatten().next_back() {
            format!(
                "give the folder with {CONFIG_FILE}, such as {}",
                adapter.display()
            )
        } else if beside(WEIGHTS_FILE) || beside(MLX_WEIGHTS_FILE) || beside(PICKLED) {
            format!(
                "{CONFIG_FILE} is missing beside its weights; without it rank and alpha are not known"
            )
        } else if beside("config.json") {
            format!(
                "there is a config.json and no {CONFIG_FILE}: it is a model, on which an adapter is put"
            )
        } else if self.holds("gguf") {
            format!(
                "there is a GGUF file; give that file, or a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
        } else {
            format!("there is no {CONFIG_FILE}")
        }
    }

    /// Returns whether a file with that extension is in the folder.
    fn holds(&self, extension: &str) -> bool {
        entries(&self.folder)
            .iter()
            .any(|path| path.extension().is_some_and(|found| found == extension))
    }
}

fn no_adapter(path: &Path, reason: String) -> LoraError {
    LoraError::NoAdapter {
        path: path.to_owned(),
        reason,
    }
}

fn pickled(path: &Path) -> LoraError {
    let reason = format!(
        "it is a pickle file, which is not read; in Python, PeftModel.from_pretrained(model, folder).save_pretrained(folder) \
         writes {WEIGHTS_FILE}"
    );
    no_adapter(path, reason)
}

fn begins_with_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read =
        fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && &magic == b"GGUF"
}

/// Returns the folders below `folder` that hold a configuration, sorted.
fn subfolders_with_adapters(folder: &Path) -> Vec<PathBuf> {
    let mut found = entries(folder);
    found.retain(|path| path.join(CONFIG_FILE).is_file());
    found.sort();
    found
}

/// Returns what is in `folder`, nothing where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}
