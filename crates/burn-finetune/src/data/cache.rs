//! A file of tokenised rows, so that a run which goes on need not tokenise again.
//!
//! ```text
//! "burn-qlora rows\n"     16 bytes
//! length of the header    8 bytes, little-endian
//! header                  JSON: the key, what is known of the rows, how many bytes they take
//! rows, index             as in memory
//! ```

use crate::data::dataset::Dataset;
use crate::data::encode::RowEncoder;
use crate::data::fingerprint::Fingerprint;
use crate::data::source::Sources;
use crate::data::spill::Stored;
use crate::data::store::{ENTRY, RowStore, Summary};
use crate::error::FinetuneError;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensor_files::{AtomicFile, InputFile};

const MAGIC: &[u8; 16] = b"burn-qlora rows\n";
/// Changes whenever the same files could give other rows, or the same rows other bytes.
const VERSION: u32 = 2;
/// Bytes of a header that could be one.
const MAX_HEADER: u64 = 1 << 26;
/// Bytes that are copied or hashed at once.
const PIECE: usize = 1 << 20;

/// The place of a file of tokenised rows, and what the rows were made from.
#[derive(Debug, Clone)]
pub struct RowCache {
    path: PathBuf,
    key: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    key: u64,
    row_bytes: u64,
    rows: u64,
    /// The hash of the index.
    index: u64,
    summary: Summary,
}

impl RowCache {
    /// Returns the place `path` for the rows that `encoder` makes of `sources`. The files are read through for a hash of
    /// their contents.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Format`], [`FinetuneError::Tokenizer`].
    pub fn new(
        path: impl Into<PathBuf>,
        encoder: &RowEncoder<'_>,
        sources: &Sources,
    ) -> Result<Self, FinetuneError> {
        let mut hash = Fingerprint::default();
        encoder.identify(&mut hash)?;
        hash.add_bytes(format!("{:?}", sources.columns()).into_bytes());
        let mut piece = vec![0; PIECE];
        for source in sources.files()?.read {
            let format = source.path().extension().unwrap_or_default();
            hash.add_bytes(format.as_encoded_bytes().to_ascii_lowercase());
            hash.add_bytes(source.weight().to_le_bytes());
            let read = |error| FinetuneError::Read {
                path: source.path().to_owned(),
                source: error,
            };
            let mut file = fs::File::open(source.path()).map_err(read)?;
            let mut len = 0_u64;
            loop {
                let count = io::Read::read(&mut file, &mut piece).map_err(read)?;
                if count == 0 {
                    break;
                }
                hash.add_bytes(piece[..count].iter().copied());
                len += count as u64;
            }
            hash.add_bytes(len.to_le_bytes());
        }
        Ok(Self {
            path: path.into(),
            key: hash.value(),
        })
    }

    /// Returns the rows of the file; `None` where there is none, where it was made from something else, and where it is
    /// damaged: all of it is read and held against its hash. What is made of the rows goes to the folder `dir` where it
    /// is too much for memory.
    pub fn open(&self, dir: &Path) -> Option<Dataset> {
        let (store, index) = self.store().ok().flatten()?;
        let is_whole = store.index_hash().is_ok_and(|hash| hash == index)
            && store.is_verified().is_ok_and(|whole| whole);
        is_whole.then(|| Dataset::of_store(store, dir.to_owned()))
    }

    /// Writes the rows that `data` is made of, and returns it standing on the file. What the file held before is gone.
    ///
    /// # Errors
    /// [`FinetuneError::Write`], [`FinetuneError::Read`].
    pub fn keep(&self, data: &Dataset) -> Result<Dataset, FinetuneError> {
        let store = data.store();
        let header = Header {
            version: VERSION,
            key: self.key,
            row_bytes: store.rows.len(),
            rows: store.len() as u64,
            index: store.index_hash()?,
            summary: store.summary.clone(),
        };
        let text = serde_json::to_vec(&header).map_err(|error| FinetuneError::Write {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        let mut file = AtomicFile::create(&self.path)?;
        file.write_all(MAGIC)?;
        file.write_all(&(text.len() as u64).to_le_bytes())?;
        file.write_all(&text)?;
        for part in [&store.rows, &store.index] {
            copy(part, &mut file)?;
        }
        file.commit()?;
        match self.store()? {
            Some((kept, _)) if kept.summary == header.summary => {
                Ok(data.clone().with_store(Arc::new(kept)))
            }
            _ => Err(FinetuneError::Malformed {
                path: self.path.clone(),
                expected: "file of rows",
                reason: "it changed while it was written".into(),
            }),
        }
    }

    /// Removes the file, if there is one.
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

    /// Returns the rows of the file and the hash of their index, `None` where they are another's or do not fit the file.
    fn store(&self) -> Result<Option<(RowStore, u64)>, FinetuneError> {
        let file = Arc::new(InputFile::open(&self.path)?);
        let mut start = [0; 24];
        file.read_at(0, &mut start)?;
        let [magic @ .., a, b, c, d, e, f, g, h] = start;
        let len = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if &magic != MAGIC || len > MAX_HEADER.min(file.len()) {
            return Ok(None);
        }
        let mut text = vec![0; len as usize];
        file.read_at(start.len() as u64, &mut text)?;
        let Ok(header) = serde_json::from_slice::<Header>(&text) else {
            return Ok(None);
        };
        let rows = start.len() as u64 + len;
        let index_bytes = header.rows.checked_mul(ENTRY as u64);
        let end = |index: u64| rows.checked_add(header.row_bytes)?.checked_add(index);
        let fits = index_bytes.and_then(end) == Some(file.len());
        let is_ours = header.version == VERSION && header.key == self.key;
        if !(fits && is_ours) {
            return Ok(None);
        }
        let part = |start, len| Stored::File {
            file: Arc::clone(&file),
            start,
            len,
        };
        let store = RowStore {
            rows: part(rows, header.row_bytes),
            index: part(rows + header.row_bytes, header.rows * ENTRY as u64),
            summary: header.summary,
        };
        Ok(Some((store, header.index)))
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

impl RowEncoder<'_> {
    /// Adds all that decides which rows an example becomes.
    fn identify(&self, hash: &mut Fingerprint) -> Result<(), FinetuneError> {
        let tokenizer = self.tokenizer.to_string(false);
        let tokenizer = tokenizer.map_err(|error| FinetuneError::Tokenizer(error.to_string()))?;
        let template = self.template.map(|template| template.identity());
        let numbers = format!(
            "{VERSION} {:?} {:?} {:?} {} {} {template:?}",
            self.eos, self.vocab_size, self.learn, self.max_len, self.truncate
        );
        for text in [tokenizer, numbers] {
            hash.add_bytes(text.bytes());
            hash.add_bytes((text.len() as u64).to_le_bytes());
        }
        Ok(())
    }
}

impl RowStore {
    fn index_hash(&self) -> Result<u64, FinetuneError> {
        let mut hash = Fingerprint::default();
        for entry in self.index.items::<ENTRY>(0) {
            hash.add_bytes(entry?);
        }
        Ok(hash.value())
    }

    /// Returns whether all rows in their order give what is known of them.
    fn is_verified(&self) -> Result<bool, FinetuneError> {
        let mut hash = Fingerprint::default();
        let (mut offset, mut longest, mut longest_sequence, mut examples) = (0, 0, 0, 0);
        for entry in self.entries() {
            let entry = entry?;
            let row = match self.read(entry)? {
                Some(row) if entry.offset == offset => row,
                _ => return Ok(false),
            };
            offset += entry.row_bytes();
            longest = longest.max(row.len());
            longest_sequence = longest_sequence.max(row.longest_sequence());
            examples += row.examples();
            hash.add(&row);
        }
        let known = &self.summary;
        let found = (hash.value(), longest, longest_sequence, examples);
        let told = (
            known.fingerprint,
            known.longest,
            known.longest_sequence,
            known.examples,
        );
        Ok(offset == self.rows.len() && found == told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::answers::Learn;
    use crate::data::row::Row;
    use tokenizers::Tokenizer;
    use tokenizers::models::bpe::BPE;

    fn cache(dir: &Path, max_len: usize, source: &Path) -> RowCache {
        let tokenizer = Tokenizer::new(BPE::default());
        let encoder = RowEncoder {
            tokenizer: &tokenizer,
            template: None,
            eos: None,
            vocab_size: None,
            learn: Learn::AllAnswers,
            max_len,
            truncate: false,
        };
        RowCache::new(dir.join("rows"), &encoder, &Sources::file(source)).unwrap()
    }

    fn data() -> Dataset {
        let row = |len: u32| Row::all((0..len).collect());
        Dataset::from_rows((1..30).map(row).collect())
    }

    #[test]
    fn kept_rows_are_the_same_rows() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.txt");
        fs::write(&source, "text").unwrap();
        let cache = cache(dir.path(), 40, &source);
        assert!(cache.open(dir.path()).is_none());
        let packed = data().packed(40).unwrap();
        let kept = cache.keep(&packed).unwrap();
        let opened = cache.open(dir.path()).unwrap();
        assert_eq!(opened.fingerprint().unwrap(), data().fingerprint().unwrap());
        assert_eq!(opened.counts(), data().counts());
        assert_eq!(opened.longest(), 29);
        for other in [kept, opened.packed(40).unwrap()] {
            let [one, other] = [&packed, &other].map(|data| data.fingerprint().unwrap());
            assert_eq!(one, other);
        }
        RowCache::remove(&dir.path().join("rows")).unwrap();
        assert!(cache.open(dir.path()).is_none());
        RowCache::remove(&dir.path().join("rows")).unwrap();
    }

    #[test]
    fn rows_of_something_else_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.txt");
        fs::write(&source, "text").unwrap();
        let first = cache(dir.path(), 40, &source);
        first.keep(&data()).unwrap();
        assert!(cache(dir.path(), 41, &source).open(dir.path()).is_none());
        fs::write(&source, "next").unwrap();
        assert!(cache(dir.path(), 40, &source).open(dir.path()).is_none());
        assert!(first.open(dir.path()).is_some());
    }

    #[test]
    fn a_file_that_is_damaged_anywhere_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.txt");
        fs::write(&source, "text").unwrap();
        let cache = cache(dir.path(), 40, &source);
        cache.keep(&data()).unwrap();
        let path = dir.path().join("rows");
        let whole = fs::read(&path).unwrap();
        let rows = data().store().rows.len() as usize;
        let index = data().store().index.len() as usize;
        let header = whole.len() - rows - index;
        let mut taken = 0;
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, damaged).unwrap();
            if let Some(opened) = cache.open(dir.path()) {
                assert!(at >= 24, "{at}");
                assert_eq!(opened.fingerprint().unwrap(), data().fingerprint().unwrap());
                taken += usize::from(at >= header);
            }
        }
        // The bits of a mask beyond its row are nothing.
        assert!(taken < data().len(), "{taken}");
        for len in [0, 10, 24, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(cache.open(dir.path()).is_none(), "{len}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(cache.open(dir.path()).is_none());
    }
}
