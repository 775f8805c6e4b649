//! A file of tokenised rows, so that a run which goes on need not tokenise again: rows and index as in memory.

use crate::data::dataset::Dataset;
use crate::data::encode::RowEncoder;
use crate::data::fingerprint::Fingerprint;
use crate::data::keyed_file::{self, KeyedFile, Kind};
use crate::data::source::Sources;
use crate::data::store::{ENTRY, RowStore, Summary};
use crate::error::FinetuneError;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KIND: Kind = Kind {
    magic: *b"burn-qlora rows\n",
    version: 3,
    max_header: 1 << 26,
};
/// Bytes that are hashed at once.
const PIECE: usize = 1 << 20;

/// The place of a file of tokenised rows, and what the rows were made from.
#[derive(Debug, Clone)]
pub struct RowCache(KeyedFile);

#[derive(Debug, Serialize, Deserialize)]
struct Header {
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
        Ok(Self(KeyedFile::new(&KIND, path.into(), hash.value())))
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
            row_bytes: store.rows.len(),
            rows: store.len() as u64,
            index: store.index_hash()?,
            summary: store.summary.clone(),
        };
        self.0.write(&header, [&store.rows, &store.index])?;
        match self.store()? {
            Some((kept, _)) if kept.summary == header.summary => {
                Ok(data.clone().with_store(Arc::new(kept)))
            }
            _ => Err(FinetuneError::Malformed {
                path: self.0.path().to_owned(),
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
        keyed_file::remove(path)
    }

    /// Returns the rows of the file and the hash of their index, `None` where they are another's or do not fit the file.
    fn store(&self) -> Result<Option<(RowStore, u64)>, FinetuneError> {
        let Some((header, contents)) = self.0.read::<Header>()? else {
            return Ok(None);
        };
        let index = header.rows.checked_mul(ENTRY as u64);
        let parts = contents.parts([Some(header.row_bytes), index]);
        Ok(parts.map(|[rows, index]| {
            let summary = header.summary;
            let store = RowStore {
                rows,
                index,
                summary,
            };
            (store, header.index)
        }))
    }
}

impl RowEncoder<'_> {
    /// Adds all that decides which rows an example becomes.
    fn identify(&self, hash: &mut Fingerprint) -> Result<(), FinetuneError> {
        let tokenizer = self.tokenizer.to_string(false);
        let tokenizer = tokenizer.map_err(|error| FinetuneError::Tokenizer(error.to_string()))?;
        let template = self.template.map(|template| template.identity());
        let numbers = format!(
            "{} {:?} {:?} {:?} {} {} {template:?}",
            KIND.version, self.eos, self.vocab_size, self.learn, self.max_len, self.truncate
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
