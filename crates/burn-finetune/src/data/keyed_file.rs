//! Files beside a run that another process may take instead of making their contents again, if they are of the same.
//!
//! ```text
//! magic                   16 bytes, one for each kind of contents
//! length of the header    8 bytes, little-endian
//! header                  JSON: the version and the key, and what the kind says of its contents
//! contents
//! ```

use crate::data::spill::Stored;
use crate::error::FinetuneError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensor_files::{AtomicFile, InputFile};

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// A kind of contents.
#[derive(Debug)]
pub struct Kind {
    /// How its files begin.
    pub magic: [u8; 16],
    /// Changes whenever the same key could stand for other contents, or the same contents for other bytes.
    pub version: u32,
    /// Bytes of a header that could be one.
    pub max_header: u64,
}

/// The place of a file, and the hash of all that decides its contents.
#[derive(Debug, Clone)]
pub struct KeyedFile {
    kind: &'static Kind,
    path: PathBuf,
    key: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header<H> {
    version: u32,
    key: u64,
    contents: H,
}

/// What lies behind the header of a file.
#[derive(Debug)]
pub struct Contents {
    file: Arc<InputFile>,
    start: u64,
}

impl KeyedFile {
    pub fn new(kind: &'static Kind, path: PathBuf, key: u64) -> Self {
        Self { kind, path, key }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn key(&self) -> u64 {
        self.key
    }

    /// Writes a header and the parts behind it. What the file held before is gone.
    ///
    /// # Errors
    /// [`FinetuneError::Write`], [`FinetuneError::Read`].
    pub fn write(
        &self,
        contents: impl Serialize,
        parts: [&Stored; 2],
    ) -> Result<(), FinetuneError> {
        let header = Header {
            version: self.kind.version,
            key: self.key,
            contents,
        };
        let text = serde_json::to_vec(&header).map_err(|error| FinetuneError::Write {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        let mut file = AtomicFile::create(&self.path)?;
        file.write_all(&self.kind.magic)?;
        file.write_all(&(text.len() as u64).to_le_bytes())?;
        file.write_all(&text)?;
        for part in parts {
            copy(part, &mut file)?;
        }
        Ok(file.commit()?)
    }

    /// Returns the header and what lies behind it; `None` where the file is of another kind, version or key, or broken.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn read<H: DeserializeOwned>(&self) -> Result<Option<(H, Contents)>, FinetuneError> {
        let file = Arc::new(InputFile::open(&self.path)?);
        let mut start = [0; 24];
        file.read_at(0, &mut start)?;
        let [magic @ .., a, b, c, d, e, f, g, h] = start;
        let len = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if magic != self.kind.magic || len > self.kind.max_header.min(file.len()) {
            return Ok(None);
        }
        let mut text = vec![0; len as usize];
        file.read_at(start.len() as u64, &mut text)?;
        let Ok(header) = serde_json::from_slice::<Header<H>>(&text) else {
            return Ok(None);
        };
        if header.version != self.kind.version || header.key != self.key {
            return Ok(None);
        }
        let start = start.len() as u64 + len;
        Ok(Some((header.contents, Contents { file, start })))
    }
}

impl Contents {
    /// Returns the two parts of so many bytes; `None` where the file does not end with them.
    pub fn parts(self, lens: [Option<u64>; 2]) -> Option<[Stored; 2]> {
        let [first, second] = lens;
        let (first, second) = (first?, second?);
        let middle = self.start.checked_add(first)?;
        let fits = middle.checked_add(second)? == self.file.len();
        let part = |start, len| Stored::File {
            file: Arc::clone(&self.file),
            start,
            len,
        };
        fits.then(|| [part(self.start, first), part(middle, second)])
    }
}

/// Removes a file, if there is one.
///
/// # Errors
/// [`FinetuneError::Write`].
pub fn remove(path: &Path) -> Result<(), FinetuneError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FinetuneError::Write {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
        _ => Ok(()),
    }
}

fn copy(part: &Stored, file: &mut AtomicFile) -> Result<(), FinetuneError> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < part.len() {
        let count = (part.len() - at).min(PIECE as u64) as usize;
        part.read_at(at, &mut piece[..count])?;
        file.write_all(&piece[..count])?;
        at += count as u64;
    }
    Ok(())
}
