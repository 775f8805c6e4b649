//! Rows made of other rows: those of one part of the data, or several packed into one.

use crate::data::spill::{Spill, Stored};
use crate::error::FinetuneError;
use std::path::Path;

/// Numbers by their place, many more than memory should hold.
#[derive(Debug)]
struct Numbers(Stored);

impl Numbers {
    fn get(&self, place: usize) -> Result<u32, FinetuneError> {
        let mut bytes = [0; 4];
        let found = self.0.read_at(4 * place as u64, &mut bytes)?;
        assert!(found, "number {place} of {}", self.0.len() / 4);
        Ok(u32::from_le_bytes(bytes))
    }

    fn iter(&self) -> impl Iterator<Item = Result<u32, FinetuneError>> + '_ {
        self.0.items(0).map(|bytes| bytes.map(u32::from_le_bytes))
    }
}

/// A list of rows, each of the rows of another list that follow each other in it.
#[derive(Debug)]
pub struct Groups {
    /// Where each row's members end in `members`.
    ends: Numbers,
    /// Each row's tokens.
    lens: Numbers,
    /// Places in the other list.
    members: Numbers,
}

impl Groups {
    /// Returns the members of a row.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    ///
    /// # Panics
    /// When there is no such row.
    pub fn members(&self, row: usize) -> Result<Vec<usize>, FinetuneError> {
        let start = match row.checked_sub(1) {
            Some(before) => self.ends.get(before)?,
            None => 0,
        };
        let members = start..self.ends.get(row)?;
        let members = members.map(|place| Ok(self.members.get(place as usize)? as usize));
        members.collect()
    }

    /// Returns a row's tokens.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    ///
    /// # Panics
    /// When there is no such row.
    pub fn len_of(&self, row: usize) -> Result<usize, FinetuneError> {
        Ok(self.lens.get(row)? as usize)
    }

    /// Returns the tokens of each row.
    pub fn lens(&self) -> impl Iterator<Item = Result<u32, FinetuneError>> + '_ {
        self.lens.iter()
    }
}

/// Rows that come one by one.
#[derive(Debug)]
pub struct GroupsWriter {
    ends: Spill,
    lens: Spill,
    members: Spill,
    count: u32,
}

impl GroupsWriter {
    /// Returns one without rows. What is too much for memory goes to nameless files in `dir`.
    pub fn into_dir(dir: &Path) -> Self {
        Self {
            ends: Spill::into_dir(dir),
            lens: Spill::into_dir(dir),
            members: Spill::into_dir(dir),
            count: 0,
        }
    }

    /// Appends a row of `len` tokens.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn push(
        &mut self,
        members: impl IntoIterator<Item = usize>,
        len: usize,
    ) -> Result<(), FinetuneError> {
        for member in members {
            self.members.write(&(member as u32).to_le_bytes())?;
            self.count += 1;
        }
        self.ends.write(&self.count.to_le_bytes())?;
        self.lens.write(&(len as u32).to_le_bytes())
    }

    /// Ends the writing.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn finish(self) -> Result<Groups, FinetuneError> {
        Ok(Groups {
            ends: Numbers(self.ends.finish()?),
            lens: Numbers(self.lens.finish()?),
            members: Numbers(self.members.finish()?),
        })
    }
}
