//! [`WeightPages`], frozen weights that need not fit where they are multiplied.
//!
//! A model reads its weights in an order that is known: from the first block to the last, and, when layers are
//! checkpointed, back from the last to the first. Let the weights be `S` bytes and let the budget have `R` of them stay. The
//! others are read again at every use, ahead of it by a thread, in the order that the model [announces](WeightPages::announce).
//!
//! - `reader`: the thread that reads them, from where they came from, a page file or memory.

mod reader;

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::budget::Budget;
use crate::error::PagedError;

use reader::{Home, Reader};

/// Reads a weight's words again, all of them one part after another, or says why that cannot be done.
pub type WeightSource = Arc<dyn Fn() -> Result<Vec<u32>, String> + Send + Sync>;

/// The pages of a model's frozen weights: the words of one matrix each.
///
/// Clones are of the same pages. What goes wrong when a page is read, in the middle of a product that cannot say it, is kept for
/// [`check`](Self::check): the words are zeros from then on.
#[derive(Clone, Debug)]
pub struct WeightPages {
    state: Arc<Mutex<State>>,
}

struct State {
    reader: Reader,
    budget: Budget,
    /// The names of the weights, by page.
    names: Vec<Arc<str>>,
    /// Pages in the order in which they will be asked for, as far as that was announced.
    order: VecDeque<usize>,
    report: WeightPagingReport,
    failed: Option<PagedError>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("budget", &self.budget)
            .field("pages", &self.names.len())
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// The sizes of paged weights, and what was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct WeightPagingReport {
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Bytes of those that stay.
    pub resident_bytes: u64,
    /// Bytes that were brought in since this was asked last.
    pub bytes_in: u64,
}

impl WeightPages {
    /// Makes pages that are read from where each weight [lies](Self::put_unread) or, where that is not in the form in which it is
    /// used, from a page file at `path`: scratch space that is made for the first such weight and removed with the last. `budget`
    /// says how much of the weights stays; with [`Budget::Auto`] all of it does.
    ///
    /// # Errors
    /// [`PagedError::Config`] for a share outside `[0, 1]`.
    pub fn on_disk(path: &Path, budget: Budget) -> Result<Self, PagedError> {
        let home = Home::Disk {
            path: path.to_owned(),
            file: None,
        };
        Self::new(home, budget)
    }

    /// Makes pages in the memory of this process, for weights that are used on a device with memory of its own.
    ///
    /// # Errors
    /// [`PagedError::Config`] for a share outside `[0, 1]`.
    pub fn in_memory(budget: Budget) -> Result<Self, PagedError> {
        Self::new(Home::Memory, budget)
    }

    fn new(home: Home, budget: Budget) -> Result<Self, PagedError> {
        budget.validate()?;
        Ok(Self {
            state: Arc::new(Mutex::new(State {
                reader: Reader::new(home),
                budget,
                names: Vec::new(),
                order: VecDeque::new(),
                report: WeightPagingReport::default(),
                failed: None,
            })),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a weight called `name`, of all these words, into a page; `None` if the budget lets it stay where it is used.
    /// Shares are kept over every prefix of the weights, so that those that stay lie between those that are read.
    ///
    /// # Errors
    /// A page file that cannot be made or written.
    pub fn put(&self, name: &str, words: &[&[u32]]) -> Result<Option<WeightPage>, PagedError> {
        let len = words.iter().map(|part| part.len()).sum();
        self.put_with(name, len, |reader| reader.put(words))
    }

    /// Puts a weight of `len` words that `source` reads into a page, as [`put`](Self::put) does; `None` if the budget lets it stay
    /// where it is used. Pages on disk have it read when it is first used; pages in memory at once.
    ///
    /// # Errors
    /// [`PagedError::Weight`] for one that is read at once and cannot be.
    pub fn put_unread(
        &self,
        name: &str,
        len: usize,
        source: WeightSource,
    ) -> Result<Option<WeightPage>, PagedError> {
        self.put_with(name, len, |reader| {
            reader
                .put_unread(len, source)
                .map_err(|reason| PagedError::Weight {
                    weight: name.to_owned(),
                    reason,
                })
        })
    }

    fn put_with(
        &self,
        name: &str,
        len: usize,
        put: impl FnOnce(&mut Reader) -> Result<(), PagedError>,
    ) -> Result<Option<WeightPage>, PagedError> {
        let mut state = self.lock();
        let bytes = size_of::<u32>() as u64 * len as u64;
        state.report.weight_bytes += bytes;
        let WeightPagingReport {
            weight_bytes,
            resident_bytes,
            ..
        } = state.report;
        if state
            .budget
            .admits(resident_bytes, bytes, weight_bytes, u64::MAX)
        {
            state.report.resident_bytes += bytes;
            return Ok(None);
        }
        let index = state.reader.len();
        put(&mut state.reader)?;
        state.names.push(name.into());
        Ok(Some(WeightPage {
            pages: self.clone(),
            index,
        }))
    }

    /// Says which pages will be asked for from now on, in order: they are read ahead. What was announced before is void.
    pub fn announce<'a>(&self, order: impl IntoIterator<Item = &'a WeightPage>) {
        let mut state = self.lock();
        state.order = order.into_iter().map(|page| page.index).collect();
    }

    /// Checks that all that was asked for could be read.
    ///
    /// # Errors
    /// [`PagedError::Weight`], the first that could not: what was computed since is of no use.
    pub fn check(&self) -> Result<(), PagedError> {
        self.lock().failed.clone().map_or(Ok(()), Err)
    }

    /// Returns the sizes and what was moved since this was asked last.
    pub fn take_report(&self) -> WeightPagingReport {
        let mut state = self.lock();
        let report = state.report;
        state.report.bytes_in = 0;
        report
    }
}

/// One weight's page.
#[derive(Clone, Debug)]
pub struct WeightPage {
    pages: WeightPages,
    index: usize,
}

impl WeightPage {
    /// Reads the words, as they were put one part after another. Where they cannot be read they are zeros, which
    /// [`WeightPages::check`] tells.
    pub fn words(&self) -> Vec<u32> {
        self.pages.lock().words(self.index)
    }

    /// Returns the pages that it is one of.
    pub fn pages(&self) -> &WeightPages {
        &self.pages
    }
}

impl State {
    fn words(&mut self, index: usize) -> Vec<u32> {
        if self.failed.is_some() {
            return vec![0; self.reader.words_of(index)];
        }
        // What was announced before it has been left out.
        if let Some(place) = self.order.iter().position(|page| *page == index) {
            self.order.drain(..=place);
        }
        match self.reader.words(index, &self.order) {
            Ok(words) => {
                self.report.bytes_in += size_of_val(words.as_slice()) as u64;
                words
            }
            Err(reason) => {
                self.failed = Some(PagedError::Weight {
                    weight: self.names[index].to_string(),
                    reason,
                });
                vec![0; self.reader.words_of(index)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Seek, SeekFrom, Write};
    use std::path::PathBuf;

    /// Bytes of a weight of these tests.
    const BYTES: u64 = 4 * 3000;

    /// The words of weight `index`, in two parts.
    fn words(index: u32) -> [Vec<u32>; 2] {
        let word = |i| (i + 10_000 * index) ^ 0x9E37_79B9;
        [
            (0..2900).map(word).collect(),
            (2900..3000).map(word).collect(),
        ]
    }

    /// Puts `count` weights into pages.
    fn put(pages: &WeightPages, count: u32) -> Vec<Option<WeightPage>> {
        let put = |index| {
            let [packed, absmax] = words(index);
            let name = format!("layers.{index}.weight");
            pages.put(&name, &[&packed, &absmax]).unwrap()
        };
        (0..count).map(put).collect()
    }

    /// Reads all weights that do not stay, forward and then backward.
    fn pass(pages: &WeightPages, weights: &[Option<WeightPage>]) {
        let order = || weights.iter().chain(weights.iter().rev()).flatten();
        pages.announce(order());
        for weight in order() {
            assert_eq!(weight.words(), words(weight.index_in_test()).concat());
        }
    }

    impl WeightPage {
        /// Returns the number that its name has.
        fn index_in_test(&self) -> u32 {
            let state = self.pages.lock();
            let name = state.names[self.index].clone();
            name.split('.').nth(1).unwrap().parse().unwrap()
        }
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        (dir, path)
    }

    #[test]
    fn words_come_back_in_any_order_and_are_counted() {
        let (_dir, path) = file();
        for (budget, stay) in [
            (Budget::Bytes(0), 0),
            (Budget::Fraction(0.5), 5),
            (Budget::Fraction(0.1), 1),
            (Budget::Bytes(3 * BYTES + 1), 3),
            (Budget::Resident, 10),
        ] {
            for pages in [
                WeightPages::on_disk(&path, budget).unwrap(),
                WeightPages::in_memory(budget).unwrap(),
            ] {
                let weights = put(&pages, 10);
                let report = pages.take_report();
                assert_eq!(report.weight_bytes, 10 * BYTES);
                assert_eq!(report.resident_bytes, stay * BYTES);
                for _ in 0..2 {
                    pass(&pages, &weights);
                    assert_eq!(pages.take_report().bytes_in, 2 * (10 - stay) * BYTES);
                }
                // Not as announced, and announced anew in the middle.
                let there: Vec<&WeightPage> = weights.iter().flatten().collect();
                pages.announce(there.iter().copied());
                for weight in there.iter().rev().step_by(3) {
                    assert_eq!(weight.words(), words(weight.index_in_test()).concat());
                    pages.announce(there.iter().skip(1).copied());
                }
                pages.check().unwrap();
            }
        }
        assert!(!path.exists(), "the page file goes with its weights");
    }

    /// A weight that can be read where it lies takes no page file and is not read before it is used; from then on it is compared
    /// with what it was.
    #[test]
    fn a_source_is_read_when_the_weight_is_used() {
        let (_dir, path) = file();
        let answer = Arc::new(Mutex::new(Err("not yet".to_owned())));
        let source = || -> WeightSource {
            let answer = answer.clone();
            Arc::new(move || answer.lock().unwrap().clone())
        };
        let set = |words| *answer.lock().unwrap() = words;
        let put = |pages: WeightPages| {
            let page = pages.put_unread("w", 3000, source());
            page.map(|page| (pages, page.unwrap()))
        };
        let on_disk = || put(WeightPages::on_disk(&path, Budget::Bytes(0)).unwrap()).unwrap();
        let in_memory = || put(WeightPages::in_memory(Budget::Bytes(0)).unwrap());

        let error = in_memory().unwrap_err().to_string();
        assert_eq!(error, "w: not yet");
        let (pages, page) = on_disk();
        set(Ok(words(3).concat()));
        assert_eq!(page.words(), words(3).concat());
        assert!(!path.exists());
        pages.check().unwrap();
        let (kept, there) = in_memory().unwrap();
        set(Ok(words(4).concat()));
        assert_eq!(there.words(), words(3).concat());
        kept.check().unwrap();
        assert_eq!(page.words(), vec![0; 3000]);
        let error = pages.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "w: its file has been changed since it was loaded, or its disk fails"
        );
        set(Err("gone".into()));
        assert_eq!(page.words(), vec![0; 3000]);
        assert_eq!(pages.check().unwrap_err().to_string(), error);

        let (pages, page) = on_disk();
        set(Ok(vec![1; 2999]));
        assert_eq!(page.words(), vec![0; 3000]);
        let error = pages.check().unwrap_err().to_string();
        assert_eq!(error, "w: 2999 words were read, and it has 3000");
        // Nothing is read for one that stays.
        let pages = WeightPages::on_disk(&path, Budget::Resident).unwrap();
        assert!(pages.put_unread("w", 3000, source()).unwrap().is_none());
        assert_eq!(pages.take_report().resident_bytes, BYTES);
    }

    #[test]
    fn every_second_weight_stays_at_half() {
        let pages = WeightPages::in_memory(Budget::Fraction(0.5)).unwrap();
        let stays = put(&pages, 6).into_iter().map(|weight| weight.is_none());
        assert_eq!(
            stays.collect::<Vec<_>>(),
            [false, true, false, true, false, true]
        );
    }

    /// Each damage to the page file is an error that names the weight and the file, and from then on nothing is read.
    #[test]
    fn what_is_not_what_was_written_is_told() {
        type Damage = fn(&Path);
        let damages: [(Damage, &str); 4] = [
            (
                |path| {
                    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                    file.set_len(20_000).unwrap();
                },
                "truncated",
            ),
            (|path| fs::remove_file(path).unwrap(), "removed"),
            (
                |path| {
                    fs::remove_file(path).unwrap();
                    fs::write(path, [7; 100_000]).unwrap();
                },
                "replaced",
            ),
            (
                |path| {
                    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
                    file.seek(SeekFrom::End(-9000)).unwrap();
                    file.write_all(&[1, 2, 3]).unwrap();
                },
                "has been written to",
            ),
        ];
        for (damage, expected) in damages {
            let (_dir, path) = file();
            let pages = WeightPages::on_disk(&path, Budget::Bytes(0)).unwrap();
            let weights = put(&pages, 5);
            pass(&pages, &weights);
            damage(&path);
            let last = weights[4].as_ref().unwrap();
            assert_eq!(last.words(), vec![0; 3000], "{expected}");
            let error = pages.check().unwrap_err().to_string();
            assert!(
                error.starts_with("layers.4.weight: the page file "),
                "{error}"
            );
            assert!(error.contains(expected), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(weights[0].as_ref().unwrap().words(), vec![0; 3000]);
        }
    }

    /// The order of a training step is no cycle, so that keeping what was used last is no worse than a fixed set there; in the order
    /// of generating it is, where every weight has just been thrown out.
    #[test]
    fn a_fixed_set_moves_no_more_than_what_was_used_last() {
        let moved_by_lru = |order: &[usize], room: usize| {
            let mut kept: VecDeque<usize> = VecDeque::new();
            let mut moved = 0;
            for page in order {
                match kept.iter().position(|kept| kept == page) {
                    Some(place) => drop(kept.remove(place)),
                    None => moved += 1,
                }
                kept.push_back(*page);
                if kept.len() > room {
                    kept.pop_front();
                }
            }
            moved
        };
        let (all, stay, steps) = (40, 10, 50);
        let forward = || 0..all;
        let step: Vec<usize> = forward().chain(forward().rev()).collect();
        // The first pass fills what is kept.
        let lru = moved_by_lru(&step.repeat(steps), stay);
        assert_eq!(lru, 2 * (all - stay) * steps + stay);
        let lru = moved_by_lru(&forward().collect::<Vec<_>>().repeat(steps), stay);
        assert_eq!(lru, all * steps);
    }
}
