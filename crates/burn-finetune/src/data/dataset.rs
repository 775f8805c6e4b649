//! Tokenised rows.

use crate::data::builder::DatasetBuilder;
use crate::data::counts::Counts;
use crate::data::encode::RowEncoder;
use crate::data::fingerprint::Fingerprint;
use crate::data::groups::{Groups, GroupsWriter};
use crate::data::row::Row;
use crate::data::source::Sources;
use crate::data::spill::Stored;
use crate::data::store::RowStore;
use crate::data::verdict::ExampleKind;
use crate::error::FinetuneError;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// Tokenised rows by their place.
///
/// Rows, their index and lists of them are in memory while they take a few MB, and else in nameless files, from which a
/// row is read when it is asked for: what is resident does not grow with the data.
#[derive(Debug, Clone)]
pub struct Dataset {
    store: Arc<RowStore>,
    /// The rows as lists of rows of the store, where they are not just these.
    groups: Option<Arc<Groups>>,
    len: usize,
    longest: usize,
    examples: usize,
    /// The hash of all rows, once it is known.
    fingerprint: OnceLock<u64>,
    /// The folder for what is too much for memory.
    dir: PathBuf,
}

impl Dataset {
    /// Reads files, those of a folder by their names: a `.txt` file as one text cut into consecutive rows, anything else as
    /// rows ([`RowEncoder::json_line`] says which): objects in JSON, one after another or in arrays, CSV and TSV whose first
    /// line names the columns, and Parquet. All but Parquet may be in gzip or zstd.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Format`] for a file that is not read, [`FinetuneError::Line`] with the
    /// place of a row, [`FinetuneError::TooLong`], [`FinetuneError::NoData`], [`FinetuneError::RowLength`] for a length
    /// under 2, and [`FinetuneError::Write`] where there is no room for the rows.
    pub fn read(sources: &Sources, encoder: &RowEncoder<'_>) -> Result<Self, FinetuneError> {
        let mut builder = DatasetBuilder::default();
        builder.read(sources, encoder)?;
        builder.finish()
    }

    /// Returns a data set of the given rows, in memory.
    ///
    /// # Panics
    /// When there are 2³² rows, or a row has as many tokens.
    pub fn from_rows(rows: Vec<Row>) -> Self {
        let mut builder = DatasetBuilder::default().with_memory(usize::MAX);
        let pushed = rows.iter().try_for_each(|row| builder.push(row));
        let data = pushed.and_then(|()| builder.finish());
        data.unwrap_or_else(|error| panic!("rows in memory: {error}"))
    }

    /// Returns the rows of a store in their order.
    pub(super) fn of_store(store: RowStore, dir: PathBuf) -> Self {
        let summary = &store.summary;
        Self {
            len: store.len(),
            groups: None,
            longest: summary.longest,
            examples: summary.examples,
            fingerprint: summary.fingerprint.into(),
            dir,
            store: Arc::new(store),
        }
    }

    /// Returns the rows that it is made of.
    pub(super) fn store(&self) -> &RowStore {
        &self.store
    }

    /// Returns it made of the same rows in another place.
    pub(super) fn with_store(self, store: Arc<RowStore>) -> Self {
        Self { store, ..self }
    }

    /// Returns it standing where `other` does, which is made of the same rows.
    #[must_use]
    pub fn beside(self, other: &Self) -> Self {
        let is_same = self.store.summary == other.store.summary;
        let store = if is_same { &other.store } else { &self.store };
        let store = Arc::clone(store);
        self.with_store(store)
    }

    /// Returns whether its rows are too much for memory and lie in a file.
    pub fn is_in_file(&self) -> bool {
        matches!(self.store.rows, Stored::File { .. })
    }

    /// Returns what became of the examples of the files, and what the user should hear of them.
    pub fn counts(&self) -> &Counts {
        &self.store.summary.counts
    }

    /// Returns the row at `place`.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, place: usize) -> Result<Row, FinetuneError> {
        assert!(place < self.len, "row {place} of {}", self.len);
        let Some(groups) = &self.groups else {
            return self.store.row(place);
        };
        let mut members = groups.members(place)?.into_iter();
        let mut row = match members.next() {
            Some(first) => self.store.row(first)?,
            None => Row::all(Vec::new()),
        };
        for member in members {
            row.append(&self.store.row(member)?);
        }
        Ok(row)
    }

    /// Returns the rows in their order, one at a time.
    pub fn rows(&self) -> impl Iterator<Item = Result<Row, FinetuneError>> + '_ {
        (0..self.len).map(|place| self.row(place))
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the length of the longest row in tokens.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Returns the number of examples, which is more than that of rows where these are packed.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// Returns the tokens of the longest sequence of the files, which is no longer than a row that is one.
    pub fn longest_sequence(&self) -> usize {
        self.store.summary.longest_sequence
    }

    /// Returns what the rows are examples of; texts where there is no row.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn kind(&self) -> Result<ExampleKind, FinetuneError> {
        let first = self.store.entries().next().transpose()?;
        Ok(first.map_or(ExampleKind::Texts, |entry| entry.kind))
    }

    /// Returns the length of the row at `place` in tokens, without reading the row.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_len(&self, place: usize) -> Result<usize, FinetuneError> {
        assert!(place < self.len, "row {place} of {}", self.len);
        match &self.groups {
            Some(groups) => groups.len_of(place),
            None => Ok(self.store.entry(place)?.len as usize),
        }
    }

    /// Returns where `rows` come from, for a message: file and line of a few of their examples, and how many more there
    /// are. Rows of no file, and those that cannot be read, go by their numbers from 1.
    pub fn places(&self, rows: impl IntoIterator<Item = usize>) -> Vec<String> {
        const NAMED: usize = 8;
        let mut places = Vec::new();
        let mut more = 0;
        for row in rows {
            for member in self.members(row).unwrap_or_else(|_| vec![row]) {
                if places.len() < NAMED {
                    places.push(self.place(member));
                } else {
                    more += 1;
                }
            }
        }
        if more > 0 {
            places.push(format!("{more} more"));
        }
        places
    }

    /// Returns where a row of the store comes from.
    fn place(&self, member: usize) -> String {
        let origin = self.store.entry(member).map(|entry| entry.origin);
        let named = origin.ok().and_then(|origin| {
            let file = (origin.file as usize).checked_sub(1)?;
            let file = self.store.summary.files.get(file)?;
            Some(format!("{file}{}", origin.place))
        });
        named.unwrap_or_else(|| format!("row {}", member + 1))
    }

    /// Returns a hash of the rows in their order (FNV-1a over ids, targets and boundaries): a run's settings hold it,
    /// so that resumption notices changed data.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn fingerprint(&self) -> Result<u64, FinetuneError> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(*known);
        }
        let mut hash = Fingerprint::default();
        for row in self.rows() {
            hash.add(&row?);
        }
        Ok(*self.fingerprint.get_or_init(|| hash.value()))
    }

    /// Keeps the first `max` rows.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn head(&self, max: usize) -> Result<Self, FinetuneError> {
        if max >= self.len {
            return Ok(self.clone());
        }
        let mut head = Self {
            len: max,
            longest: 0,
            examples: 0,
            fingerprint: OnceLock::new(),
            ..self.clone()
        };
        for row in self.rows().take(max) {
            let row = row?;
            head.longest = head.longest.max(row.len());
            head.examples += row.examples();
        }
        Ok(head)
    }

    /// Returns the lengths of the rows.
    pub(crate) fn lens(&self) -> Box<dyn Iterator<Item = Result<u32, FinetuneError>> + '_> {
        match &self.groups {
            Some(groups) => Box::new(groups.lens().take(self.len)),
            None => Box::new(
                self.store
                    .entries()
                    .take(self.len)
                    .map(|entry| Ok(entry?.len)),
            ),
        }
    }

    /// Returns whether each row comes from the same example as the one before it.
    pub(super) fn goes_on(&self) -> Box<dyn Iterator<Item = Result<bool, FinetuneError>> + '_> {
        match &self.groups {
            Some(_) => Box::new((0..self.len).map(|_| Ok(false))),
            None => Box::new(
                self.store
                    .entries()
                    .take(self.len)
                    .enumerate()
                    .map(|(place, entry)| Ok(entry?.goes_on && place > 0)),
            ),
        }
    }

    /// Returns the rows of the store that are in a row.
    fn members(&self, row: usize) -> Result<Vec<usize>, FinetuneError> {
        match &self.groups {
            Some(groups) => groups.members(row),
            None => Ok(vec![row]),
        }
    }
}

/// Rows made of rows of a data set, one after the other.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    data: &'a Dataset,
    groups: GroupsWriter,
    len: usize,
    longest: usize,
    examples: usize,
}

impl<'a> Selection<'a> {
    /// Returns one without rows.
    pub fn of(data: &'a Dataset) -> Self {
        Self {
            groups: GroupsWriter::into_dir(&data.dir),
            data,
            len: 0,
            longest: 0,
            examples: 0,
        }
    }

    /// Appends a row of the rows at `places`.
    ///
    /// # Errors
    /// [`FinetuneError::Read`], [`FinetuneError::Write`].
    pub fn push(&mut self, places: impl IntoIterator<Item = usize>) -> Result<(), FinetuneError> {
        let mut members = Vec::new();
        for place in places {
            members.extend(self.data.members(place)?);
        }
        let mut len = 0;
        for member in &members {
            let entry = self.data.store.entry(*member)?;
            len += entry.len as usize;
            self.examples += entry.examples();
        }
        self.len += 1;
        self.longest = self.longest.max(len);
        self.groups.push(members, len)
    }

    /// Returns the rows.
    ///
    /// # Errors
    /// [`FinetuneError::Write`].
    pub fn finish(self) -> Result<Dataset, FinetuneError> {
        Ok(Dataset {
            groups: Some(Arc::new(self.groups.finish()?)),
            len: self.len,
            longest: self.longest,
            examples: self.examples,
            fingerprint: OnceLock::new(),
            ..self.data.clone()
        })
    }
}
