//! Tokenised rows.

use crate::data::encode::{Row, RowEncoder};
use crate::data::file;
use crate::data::source::Sources;
use crate::error::FinetuneError;
use std::collections::BTreeSet;

/// All rows of data files, tokenised.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    rows: Vec<Row>,
    warnings: Vec<String>,
}

impl Dataset {
    /// Reads files, those of a folder by their names: a `.txt` file as one text cut into rows ([`RowEncoder::pack`]),
    /// anything else as rows ([`RowEncoder::json_line`] says which): objects in JSON, one after another or in arrays, CSV
    /// and TSV whose first line names the columns, and Parquet. All but Parquet may be in gzip or zstd.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Format`] for a file that is not read, [`FinetuneError::Line`] with the
    /// place of a row, [`FinetuneError::NoData`], and [`FinetuneError::RowLength`] for a length under 2.
    pub fn read(sources: &Sources, encoder: &RowEncoder<'_>) -> Result<Self, FinetuneError> {
        file::read(sources, encoder)
    }

    /// Returns a data set of the given rows.
    pub fn from_rows(rows: Vec<Row>) -> Self {
        Self {
            rows,
            warnings: Vec::new(),
        }
    }

    /// Returns the data set with what the user should hear of its rows.
    #[must_use]
    pub(super) fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// Returns what the user should hear of the rows, a line for each kind with the first line of the file it is true of.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the rows in the order of the file.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the length of the longest row in tokens.
    pub fn longest(&self) -> usize {
        self.rows.iter().map(Row::len).max().unwrap_or(0)
    }

    /// Returns a hash of the rows in their order (FNV-1a over ids, targets and boundaries): a run's settings hold it,
    /// so that resumption notices changed data.
    pub fn fingerprint(&self) -> u64 {
        let bytes = self.rows.iter().flat_map(|row| {
            let tokens = row.ids.iter().zip(&row.learn);
            let tokens = tokens
                .flat_map(|(id, learn)| (u64::from(*id) << 1 | u64::from(*learn)).to_le_bytes());
            let starts = row.sequences().skip(1);
            let starts = starts.flat_map(|sequence| (sequence.start as u64).to_le_bytes());
            tokens.chain([0xff]).chain(starts)
        });
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// Packs the examples, several into a row wherever they fit into `max_len` tokens together.
    ///
    /// Best fit, longest first (in the file's order where lengths are equal): a row goes to where the least
    /// room is left over. Within a row the examples keep the file's order, and so do rows by their first examples.
    #[must_use]
    pub fn packed(self, max_len: usize) -> Self {
        let mut longest_first: Vec<usize> = (0..self.len()).collect();
        longest_first.sort_by_key(|row| std::cmp::Reverse(self.rows[*row].len()));
        let mut bins: Vec<Vec<usize>> = Vec::new();
        // Room left in a bin, and the bin.
        let mut open = BTreeSet::new();
        for row in longest_first {
            let len = self.rows[row].len();
            let fitting = open.range((len, 0)..).next().copied();
            let (room, bin) = fitting.unwrap_or_else(|| {
                bins.push(Vec::new());
                (max_len.max(len), bins.len() - 1)
            });
            open.remove(&(room, bin));
            open.insert((room - len, bin));
            bins[bin].push(row);
        }
        for bin in &mut bins {
            bin.sort_unstable();
        }
        bins.sort_unstable();
        let joined = |bin: Vec<usize>| {
            let rows = bin.into_iter().map(|row| self.rows[row].clone());
            rows.reduce(|mut row, next| {
                row.append(&next);
                row
            })
        };
        Self {
            rows: bins.into_iter().filter_map(joined).collect(),
            warnings: self.warnings,
        }
    }

    /// Returns the number of examples, which is more than that of rows where these are packed.
    pub fn examples(&self) -> usize {
        self.rows.iter().map(|row| row.sequences().count()).sum()
    }

    /// Keeps the first `max` rows.
    #[must_use]
    pub fn head(mut self, max: usize) -> Self {
        self.rows.truncate(max);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lengths: &[usize]) -> Dataset {
        let row = |(first, len): (usize, &usize)| Row::all(vec![first as u32; *len]);
        Dataset::from_rows(lengths.iter().enumerate().map(row).collect())
    }

    #[test]
    fn examples_share_rows_where_they_fit() {
        let data = rows(&[5, 7, 3, 10, 2, 1]);
        let fingerprint = data.fingerprint();
        let packed = data.packed(10);
        let ids = |row: &Row| {
            row.sequences()
                .map(|sequence| (row.ids[sequence.start], sequence.len()))
                .collect::<Vec<_>>()
        };
        let found: Vec<_> = packed.rows().iter().map(ids).collect();
        let expected = [
            vec![(0, 5), (4, 2), (5, 1)],
            vec![(1, 7), (2, 3)],
            vec![(3, 10)],
        ];
        assert_eq!(found, expected);
        assert_eq!(
            (packed.len(), packed.examples(), packed.longest()),
            (3, 6, 10)
        );
        assert_ne!(packed.fingerprint(), fingerprint);
    }

    #[test]
    fn no_target_is_lost_or_made() {
        let data = rows(&[2, 9, 4, 4, 6, 3, 3, 8]);
        let targets = |data: &Dataset| data.rows().iter().map(Row::targets).sum::<usize>();
        let expected = targets(&data);
        assert_eq!(targets(&data.packed(12)), expected);
    }

    /// The boundaries alone tell packed rows from one row of the same tokens.
    #[test]
    fn boundaries_are_part_of_the_fingerprint() {
        let mut packed = Row::all(vec![1, 2]);
        packed.append(&Row::all(vec![3, 4]));
        let whole = Row::new(packed.ids.clone(), packed.learn.clone());
        let [packed, whole] = [packed, whole].map(|row| Dataset::from_rows(vec![row]));
        assert_ne!(packed.fingerprint(), whole.fingerprint());
    }

    #[test]
    fn what_fits_with_nothing_stays_alone() {
        let packed = rows(&[6, 6, 12]).packed(10);
        assert_eq!((packed.len(), packed.examples()), (3, 3));
    }
}
