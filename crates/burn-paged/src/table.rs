//! The page table: which bytes of which page hold the state of which parameter.
//!
//! States are laid one behind the other, so that many small ones share a page and one transfer moves them
//! all; a state that does not fit into what is left of a page goes on in the next.

use std::ops::Range;

use crate::state_dtype::StateDtype;

/// A run of elements of one parameter in one page.
///
/// In f32 the run is the first moments and then the second ones, each padded to 16 elements. In 8 bits it
/// is blocks: the codes of the first moments, those of the second, and the two scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub page: usize,
    /// The run's first byte in the page.
    pub offset: usize,
    /// The byte behind its last.
    pub end: usize,
    /// The first element, counted in the flattened parameter.
    pub first: usize,
    pub elements: usize,
}

impl Segment {
    /// Returns the run's bytes in its page.
    pub fn bytes(&self) -> Range<usize> {
        self.offset..self.end
    }

    /// Returns which elements of the flattened parameter it is of.
    pub fn elements(&self) -> Range<usize> {
        self.first..self.first + self.elements
    }
}

/// The state of one parameter.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub dtype: StateDtype,
    pub elements: usize,
    pub segments: Vec<Segment>,
    /// The step that updated it last, to see where a step begins.
    pub step: u64,
}

/// All states and pages.
#[derive(Debug)]
pub(crate) struct PageTable {
    page_bytes: usize,
    /// Bytes in use of each page, from its beginning.
    used: Vec<usize>,
    entries: Vec<Entry>,
    /// Entries whose parameter is gone, for the next of the same size.
    free: Vec<usize>,
}

impl PageTable {
    pub fn new(page_bytes: usize) -> Self {
        Self {
            page_bytes,
            used: Vec::new(),
            entries: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Returns the bytes in use of each page.
    pub fn used(&self) -> &[usize] {
        &self.used
    }

    pub fn entry(&self, id: usize) -> &Entry {
        &self.entries[id]
    }

    pub fn entry_mut(&mut self, id: usize) -> &mut Entry {
        &mut self.entries[id]
    }

    /// Makes room for a state, behind the others or where one of the same size was. Returns its entry, and whether
    /// its bytes may hold what another left.
    pub fn allocate(&mut self, dtype: StateDtype, elements: usize) -> (usize, bool) {
        let fits = |id: &usize| {
            let entry = &self.entries[*id];
            (entry.dtype, entry.elements) == (dtype, elements)
        };
        if let Some(at) = self.free.iter().position(fits) {
            let id = self.free.swap_remove(at);
            self.entries[id].step = 0;
            return (id, true);
        }
        let (granule, bytes) = (dtype.granule(), dtype.granule_bytes());
        let mut segments = Vec::new();
        let mut first = 0;
        while first < elements {
            let begun = self.used.last().copied().unwrap_or(self.page_bytes);
            // Runs begin on 8 bytes in every format, so f32 values are aligned.
            if self.page_bytes - begun < bytes {
                self.used.push(0);
                continue;
            }
            let room = (self.page_bytes - begun) / bytes;
            let count = room.min((elements - first).div_ceil(granule));
            let page = self.used.len() - 1;
            let elements = (count * granule).min(elements - first);
            segments.push(Segment {
                page,
                offset: begun,
                end: begun + count * bytes,
                first,
                elements,
            });
            self.used[page] += count * bytes;
            first += elements;
        }
        self.entries.push(Entry {
            dtype,
            elements,
            segments,
            step: 0,
        });
        (self.entries.len() - 1, false)
    }

    pub fn release(&mut self, id: usize) {
        self.free.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_states_share_pages_and_nothing_overlaps() {
        let mut table = PageTable::new(4096);
        let sizes = [1, 16, 17, 300, 700, 256, 5000, 3];
        let mut taken: Vec<(usize, usize, usize)> = Vec::new();
        for (i, elements) in sizes.into_iter().enumerate() {
            let dtype = match i % 2 {
                0 => StateDtype::F32,
                _ => StateDtype::Dynamic8,
            };
            let (id, reused) = table.allocate(dtype, elements);
            assert!(!reused);
            let entry = table.entry(id);
            let mut next = 0;
            for segment in &entry.segments {
                assert_eq!((segment.first, segment.offset % 8), (next, 0));
                next += segment.elements;
                assert_eq!(segment.end - segment.offset, dtype.bytes(segment.elements));
                assert!(segment.end <= 4096);
                taken.push((segment.page, segment.offset, segment.end));
            }
            assert_eq!(next, elements);
        }
        taken.sort();
        assert!(
            taken
                .windows(2)
                .all(|w| w[0].0 < w[1].0 || w[0].2 <= w[1].1)
        );
        let used: usize = table.used().iter().sum();
        let in_runs: usize = taken.iter().map(|(_, from, to)| to - from).sum();
        assert_eq!(used, in_runs);
        // All but the last page are full but for less than a piece.
        let last = table.used().len() - 1;
        assert!(table.used()[..last].iter().all(|used| 4096 - used < 520));
    }

    #[test]
    fn room_is_used_again() {
        let mut table = PageTable::new(1 << 12);
        let (id, _) = table.allocate(StateDtype::F32, 100);
        table.release(id);
        assert_eq!(table.allocate(StateDtype::F32, 100), (id, true));
        assert_ne!(table.allocate(StateDtype::F32, 100), (id, true));
    }
}
