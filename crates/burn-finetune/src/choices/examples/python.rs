use std::collections::BTreeSet;

/// The words of the generator's state, and the distance of those that a new one is made of.
const WORDS: usize = 624;
const DISTANCE: usize = 397;

/// Python's `random.Random`: the Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), and what CPython draws by it. The
/// harness's examples are those that it draws, so this is held to its bits.
pub struct PythonRandom {
    state: [u32; WORDS],
    next: usize,
}

impl PythonRandom {
    /// Returns `random.Random(seed)` (`init_by_array` of the one word).
    pub fn new(seed: u32) -> Self {
        let mut state = [0u32; WORDS];
        state[0] = 19_650_218;
        for i in 1..WORDS {
            state[i] = spread(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
        }
        let mut i = 1;
        let mut advance = |state: &mut [u32; WORDS], factor, more: &dyn Fn(usize) -> u32| {
            state[i] = (state[i] ^ spread(state[i - 1], factor)).wrapping_add(more(i));
            i += 1;
            if i == WORDS {
                state[0] = state[WORDS - 1];
                i = 1;
            }
        };
        for _ in 0..WORDS {
            advance(&mut state, 1_664_525, &|_| seed);
        }
        for _ in 1..WORDS {
            advance(&mut state, 1_566_083_941, &|i| (i as u32).wrapping_neg());
        }
        state[0] = 1 << 31;
        Self { state, next: WORDS }
    }

    /// Returns `sample(range(len), count)`.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn sample(&mut self, len: usize, count: usize) -> Vec<usize> {
        assert!(count <= len, "{count} of {len}");
        let mut drawn = Vec::with_capacity(count);
        // CPython's choice of the way that takes less memory.
        let mut most = 21;
        if count > 5 {
            most += 4usize.saturating_pow((3.0 * count as f64).log(4.0).ceil() as u32);
        }
        if len <= most {
            let mut pool: Vec<usize> = (0..len).collect();
            for rest in (len + 1 - count..=len).rev() {
                let place = self.below(rest);
                drawn.push(pool[place]);
                pool[place] = pool[rest - 1];
            }
            return drawn;
        }
        let mut seen = BTreeSet::new();
        while drawn.len() < count {
            let place = self.below(len);
            if seen.insert(place) {
                drawn.push(place);
            }
        }
        drawn
    }

    /// Returns a number below `n`.
    fn below(&mut self, n: usize) -> usize {
        let unused = (n as u32).leading_zeros();
        loop {
            let found = (self.word() >> unused) as usize;
            if found < n {
                return found;
            }
        }
    }

    /// Returns 32 random bits.
    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.renew();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn renew(&mut self) {
        for i in 0..WORDS {
            let mixed = (self.state[i] & 1 << 31) | (self.state[(i + 1) % WORDS] & !(1 << 31));
            let mut word = self.state[(i + DISTANCE) % WORDS] ^ (mixed >> 1);
            if mixed & 1 == 1 {
                word ^= 0x9908_b0df;
            }
            self.state[i] = word;
        }
        self.next = 0;
    }
}

/// Spreads the high bits of a word over all of them.
fn spread(word: u32, factor: u32) -> u32 {
    (word ^ word >> 30).wrapping_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of CPython 3.11.
    #[test]
    fn samples_are_those_of_python() {
        let mut random = PythonRandom::new(1234);
        let words = [4_150_886_329, 3_342_196_574, 1_892_932_127];
        assert_eq!([0; 3].map(|_| random.word()), words);
        let mut random = PythonRandom::new(1234);
        for expected in [[7, 1, 0], [1, 0, 9], [1, 5, 3]] {
            assert_eq!(random.sample(10, 3), expected);
        }
        for expected in [[4, 7, 88], [165, 159, 123], [157, 118, 38]] {
            assert_eq!(random.sample(200, 3), expected);
        }
        assert_eq!(random.sample(60, 7), [5, 11, 45, 7, 54, 0, 32]);
        let expected = [996, 1803, 1976, 511, 132, 1366, 1108];
        assert_eq!(random.sample(2000, 7), expected);
        assert!(random.sample(3, 0).is_empty());
        // Beyond the words that the state holds.
        let after = (0..700).map(|_| random.word()).last();
        assert_eq!(after, Some(1_622_446_941));
    }
}
