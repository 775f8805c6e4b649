//! Bytes in memory while they are few, in a file when they are many.

use crate::error::FinetuneError;
use std::path::PathBuf;
use std::sync::Arc;
use tensor_files::{InputFile, ScratchFile};

/// Bytes of one kind that stay in memory.
const IN_MEMORY: usize = 4 << 20;
/// Bytes that are read ahead by those who go through all of them.
const READ_AHEAD: usize = 1 << 16;

/// Bytes that are being written.
#[derive(Debug)]
pub struct Spill {
    memory: Vec<u8>,
    limit: usize,
    dir: PathBuf,
    file: Option<ScratchFile>,
    len: u64,
}

impl Spill {
    /// Returns one without bytes. What is too much for memory goes to a nameless file in `dir`.
    pub fn into_dir(dir: impl Into<PathBuf>) -> Self {
        Self {
            memory: Vec::new(),
            limit: IN_MEMORY,
            dir: dir.into(),
            file: None,
            len: 0,
        }
    }

    /// Keeps `limit` bytes in memory at most.
    #[must_use]
    pub fn with_limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Returns the number of bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Writes `bytes` behind what is there.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FinetuneError> {
        self.len += bytes.len() as u64;
        if self.file.is_none() {
            if self.memory.len() + bytes.len() <= self.limit {
                self.memory.extend_from_slice(bytes);
                return Ok(());
            }
            let mut file = ScratchFile::create_in(&self.dir)?;
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => Ok(file.write_all(bytes)?),
            None => Ok(()),
        }
    }

    /// Ends the writing.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn finish(self) -> Result<Stored, FinetuneError> {
        Ok(match self.file {
            Some(file) => Stored::whole(Arc::new(file.into_input()?)),
            None => Stored::Memory(self.memory),
        })
    }
}

/// Bytes that are read at positions. A read goes through a buffer of the caller's, not through a map of the file, whose
/// pages would count as the process's memory.
#[derive(Debug)]
pub enum Stored {
    /// Bytes in memory.
    Memory(Vec<u8>),
    /// A part of a file.
    File {
        /// The file.
        file: Arc<InputFile>,
        /// Where the part begins.
        start: u64,
        /// Its bytes.
        len: u64,
    },
}

impl Stored {
    /// Returns all of a file.
    pub fn whole(file: Arc<InputFile>) -> Self {
        Self::File {
            start: 0,
            len: file.len(),
            file,
        }
    }

    /// Returns the file or its folder, for messages; empty for bytes in memory.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Memory(_) => PathBuf::new(),
            Self::File { file, .. } => file.path().to_owned(),
        }
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Fills `buffer` with the bytes from `offset` on; `false` where there are not as many.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, FinetuneError> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Ok(false);
        }
        match self {
            Self::Memory(bytes) => {
                let start = offset as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
            }
            Self::File { file, start, .. } => file.read_at(start + offset, buffer)?,
        }
        Ok(true)
    }

    /// Returns the items of `N` bytes from the one at `first` on, read ahead.
    pub fn items<const N: usize>(
        &self,
        first: u64,
    ) -> impl Iterator<Item = Result<[u8; N], FinetuneError>> + '_ {
        let mut next = first * N as u64;
        let mut ahead = Vec::new();
        let mut taken = 0;
        std::iter::from_fn(move || {
            if taken == ahead.len() {
                let left = self.len().saturating_sub(next);
                let count = left.min((READ_AHEAD / N * N) as u64) as usize;
                ahead.resize(count / N * N, 0);
                if ahead.is_empty() {
                    return None;
                }
                if let Err(error) = self.read_at(next, &mut ahead) {
                    ahead.clear();
                    return Some(Err(error));
                }
                next += ahead.len() as u64;
                taken = 0;
            }
            let item = ahead.get(taken..taken + N)?;
            taken += N;
            Some(Ok(std::array::from_fn(|place| item[place])))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_memory_would() {
        let dir = tempfile::tempdir().unwrap();
        let stored = |limit| {
            let mut spill = Spill::into_dir(dir.path()).with_limit(limit);
            for number in 0..40_000_u32 {
                spill.write(&number.to_le_bytes()).unwrap();
            }
            assert_eq!(spill.len(), 160_000);
            spill.finish().unwrap()
        };
        let (memory, file) = (stored(160_000), stored(100));
        assert!(matches!(memory, Stored::Memory(_)));
        assert!(matches!(file, Stored::File { .. }));
        for stored in [memory, file] {
            let mut found = [0; 4];
            assert!(stored.read_at(159_996, &mut found).unwrap());
            assert_eq!(u32::from_le_bytes(found), 39_999);
            assert!(!stored.read_at(159_997, &mut found).unwrap());
            assert!(!stored.read_at(u64::MAX, &mut found).unwrap());
            let numbers = stored
                .items(3)
                .map(|item| u32::from_le_bytes(item.unwrap()));
            assert!(numbers.eq(3..40_000));
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let mut spill = Spill::into_dir("there/is/none").with_limit(0);
        let error = spill.write(&[1]).unwrap_err().to_string();
        assert!(error.contains("there/is/none"), "{error}");
    }
}
