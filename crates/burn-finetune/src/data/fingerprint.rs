//! A hash of rows in their order.

use crate::data::row::Row;
use crate::data::verdict::Verdicts;

/// FNV-1a over ids, targets and boundaries.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// Adds bytes.
    pub fn add_bytes(&mut self, bytes: impl IntoIterator<Item = u8>) {
        self.0 = bytes.into_iter().fold(self.0, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    }

    /// Adds a row.
    pub fn add(&mut self, row: &Row) {
        for (id, learn) in row.ids.iter().zip(&row.learn) {
            self.add_bytes((u64::from(*id) << 1 | u64::from(*learn)).to_le_bytes());
        }
        self.add_bytes([0xff]);
        for sequence in row.sequences().skip(1) {
            self.add_bytes((sequence.start as u64).to_le_bytes());
        }
        match row.verdicts() {
            Verdicts::None => {}
            Verdicts::Pairs => self.add_bytes([0xfe]),
            Verdicts::Labels(labels) => {
                self.add_bytes([0xfd]);
                self.add_bytes(labels.iter().map(|label| u8::from(*label)));
            }
        }
    }

    /// Returns the hash of what was added.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number is that of a program of its own: run.json of runs that were begun before has such.
    #[test]
    fn it_stays_what_it_was() {
        let mut packed = Row::new(vec![70_000, u32::MAX], vec![false, true]);
        packed.append(&Row::all(vec![5, 6]));
        let mut hash = Fingerprint::default();
        hash.add(&Row::all(vec![1, 2, 300]));
        hash.add(&packed);
        assert_eq!(hash.value(), 0x5fe235c9cb123bf3);
    }
}
