//! A file of what the reference gives, so that a run which goes on need not ask it again: 8 bytes a row, where its values end
//! among all, and the values, f64.

use super::asking::{Answers, Asked};
use super::pieces::Pieces;
use super::reference::{ReferenceConfig, References};
use crate::data::Dataset;
use crate::data::fingerprint::Fingerprint;
use crate::data::keyed_file::{self, KeyedFile, Kind};
use crate::error::FinetuneError;
use burn_qlora::CausalLm;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const KIND: Kind = Kind {
    magic: *b"burn-qlora refs\n",
    version: 2,
    max_header: 1 << 12,
};

/// The place of a file of what a reference gives, and what it was asked.
#[derive(Debug, Clone)]
pub struct ReferenceFile {
    file: KeyedFile,
    config: ReferenceConfig,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    rows: u64,
    values: u64,
    hash: u64,
}

impl ReferenceFile {
    /// Returns the place `path` for what the reference called `base` gives the rows of `data`. Whatever decides the values, the
    /// model's weights and what it computes in, has to be in that name.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn new(
        path: impl Into<PathBuf>,
        data: &Dataset,
        base: &str,
        config: ReferenceConfig,
    ) -> Result<Self, FinetuneError> {
        let mut hash = Fingerprint::default();
        hash.add_bytes(data.fingerprint()?.to_le_bytes());
        hash.add_bytes(format!("{} {config:?} {base}", KIND.version).into_bytes());
        Ok(Self {
            file: KeyedFile::new(&KIND, path.into(), hash.value()),
            config,
        })
    }

    /// Returns what is in the file; `None` where there is none, where it is of something else, and where it is damaged: all of
    /// it is read and held against its hash.
    pub fn open(&self) -> Option<References> {
        self.read().ok().flatten()
    }

    /// Asks the reference `model` about all rows of `data`, the rows of this place, and writes what it gives. Each batch is kept
    /// beside the file as soon as it is there, so that a process which comes after one that was stopped or killed goes on where
    /// that was. Before each batch `goes_on` is given how many rows of how many are done, and may end the asking, with `None`.
    ///
    /// # Errors
    /// As [`References::compute`].
    pub fn ask<M: CausalLm>(
        &self,
        model: &M,
        data: &Dataset,
        goes_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<References>, FinetuneError> {
        let path = self.file.path();
        let mut answers = Answers::in_dir(path.parent().unwrap_or(Path::new("")));
        let pieces = Pieces::beside(path);
        let mut pieces = Pieces::open(pieces, self.file.key(), data.len(), &mut answers)?;
        let asked = Asked::new(model, data, self.config);
        let references = asked.all(answers, goes_on, &mut |first, rows| {
            pieces.append(first, rows)
        })?;
        let Some(references) = references else {
            return Ok(None);
        };
        self.keep(&references)?;
        self.remove_pieces()?;
        Ok(Some(references))
    }

    /// Removes what was kept of an asking that has come to its end since.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn remove_pieces(&self) -> Result<(), FinetuneError> {
        keyed_file::remove(&Pieces::beside(self.file.path()))
    }

    /// Writes what the reference gives. What the file held before is gone.
    ///
    /// # Errors
    /// [`FinetuneError::Write`], [`FinetuneError::Read`].
    pub fn keep(&self, references: &References) -> Result<(), FinetuneError> {
        let header = Header {
            rows: references.len() as u64,
            values: references.values.len() / 8,
            hash: hash(references)?,
        };
        self.file
            .write(&header, [&references.ends, &references.values])
    }

    /// Removes the file and what was kept of an asking that has not come to its end, where there are such.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn remove(path: &Path) -> Result<(), FinetuneError> {
        keyed_file::remove(&Pieces::beside(path))?;
        keyed_file::remove(path)
    }

    fn read(&self) -> Result<Option<References>, FinetuneError> {
        let Some((header, contents)) = self.file.read::<Header>()? else {
            return Ok(None);
        };
        let lens = [header.rows, header.values].map(|numbers| numbers.checked_mul(8));
        let Some([ends, values]) = contents.parts(lens) else {
            return Ok(None);
        };
        let references = References {
            ends,
            values,
            config: self.config,
        };
        Ok((hash(&references)? == header.hash).then_some(references))
    }
}

/// Returns the hash of the numbers.
fn hash(references: &References) -> Result<u64, FinetuneError> {
    let mut hash = Fingerprint::default();
    for part in [&references.ends, &references.values] {
        for number in part.items::<8>(0) {
            hash.add_bytes(number?);
        }
    }
    Ok(hash.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Row;
    use crate::data::spill::Spill;
    use crate::objective::{Dpo, Objective};
    use crate::train::TrainConfig;
    use std::fs;

    fn data(id: u32) -> Dataset {
        let answer = |ids: Vec<u32>| Row::new(ids, vec![false, true]);
        let row = Row::pair(answer(vec![1, id]), &answer(vec![1, 3]));
        Dataset::from_rows(vec![row; 3])
    }

    fn config() -> ReferenceConfig {
        let config = TrainConfig {
            objective: Objective::Dpo(Dpo::default()),
            ..TrainConfig::default()
        };
        ReferenceConfig::of(&config, 8).unwrap()
    }

    fn references() -> References {
        let numbers = |numbers: &[[u8; 8]]| {
            let mut spill = Spill::into_dir("");
            numbers.iter().for_each(|bytes| spill.write(bytes).unwrap());
            spill.finish().unwrap()
        };
        let values: Vec<_> = (0..6)
            .map(|at| (-f64::from(at) / 3.0).to_le_bytes())
            .collect();
        References {
            ends: numbers(&[2, 4, 6].map(u64::to_le_bytes)),
            values: numbers(&values),
            config: config(),
        }
    }

    #[test]
    fn what_is_kept_comes_back_for_the_same_rows_and_base_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = |data: &Dataset, base: &str| {
            ReferenceFile::new(dir.path().join("refs"), data, base, config()).unwrap()
        };
        let ours = file(&data(2), "base");
        assert!(ours.open().is_none());
        ours.keep(&references()).unwrap();
        let kept = ours.open().unwrap();
        for place in 0..3 {
            assert_eq!(
                kept.of_row(place).unwrap(),
                references().of_row(place).unwrap()
            );
        }
        assert!(file(&data(4), "base").open().is_none());
        assert!(file(&data(2), "other").open().is_none());
        ReferenceFile::remove(&dir.path().join("refs")).unwrap();
        assert!(ours.open().is_none());
    }

    #[test]
    fn a_file_that_is_damaged_anywhere_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs");
        let file = ReferenceFile::new(&path, &data(2), "base", config()).unwrap();
        file.keep(&references()).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, damaged).unwrap();
            assert!(file.open().is_none(), "{at}");
        }
        for len in [0, 10, 24, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(file.open().is_none(), "{len}");
        }
    }
}
