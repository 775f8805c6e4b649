/// The rows of a file that are taken, one after another.
#[derive(Debug, Clone)]
pub struct Share {
    whole: usize,
    fraction: f64,
    seed: u64,
    row: u64,
    /// The neighbours of which one is taken once more: their number among such groups, the row after them, and the one.
    group: u64,
    end: u64,
    taken: u64,
}

impl Share {
    /// Returns the share that a weight means, of the file at this place among all.
    pub fn new(weight: f64, place: usize) -> Self {
        let mut share = Self {
            whole: weight.trunc() as usize,
            fraction: weight.fract(),
            seed: place as u64,
            row: 0,
            group: 0,
            end: 0,
            taken: 0,
        };
        share.next_group();
        share
    }

    /// Returns how many times the next row is taken.
    pub fn next(&mut self) -> usize {
        let mut times = self.whole;
        if self.fraction > 0.0 {
            times += usize::from(self.row == self.taken);
            self.row += 1;
            if self.row == self.end {
                self.next_group();
            }
        }
        times
    }

    /// Cuts the file into groups of `1 / fraction` rows, and draws one of the next.
    fn next_group(&mut self) {
        let start = self.end;
        self.group += 1;
        self.end = (self.group as f64 / self.fraction).ceil() as u64;
        let len = (self.end - start).max(1);
        self.taken = start + mixed(self.seed << 32 ^ self.group) % len;
    }
}

/// Returns bits that look random (SplitMix64).
fn mixed(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(weight: f64, place: usize, rows: usize) -> Vec<usize> {
        let mut share = Share::new(weight, place);
        (0..rows).map(|_| share.next()).collect()
    }

    #[test]
    fn a_weight_is_the_share_of_the_rows() {
        for weight in [0.001, 0.05, 0.3, 0.5, 0.75, 0.999, 1.0, 1.25, 2.0, 7.5] {
            let times = taken(weight, 3, 10_000);
            let all = times.iter().sum::<usize>() as f64;
            assert!((all - weight * 10_000.0).abs() <= 1.0, "{weight}: {all}");
            let least = weight.trunc() as usize;
            assert!(
                times
                    .iter()
                    .all(|times| (least..=least + 1).contains(times))
            );
        }
        assert!(taken(1.0, 0, 9).iter().all(|times| *times == 1));
    }

    #[test]
    fn the_choice_is_spread_random_and_the_same_always() {
        let half = taken(0.5, 0, 1000);
        for pair in half.chunks(2) {
            assert_eq!(pair.iter().sum::<usize>(), 1);
        }
        let firsts = half.chunks(2).filter(|pair| pair[0] == 1).count();
        assert!((200..300).contains(&firsts), "{firsts}");
        assert_eq!(half, taken(0.5, 0, 1000));
        assert_ne!(half, taken(0.5, 1, 1000));
    }
}
