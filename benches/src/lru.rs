//! The bytes that least-recently-used paging would move.

use std::collections::VecDeque;

/// Returns the bytes that LRU paging with `capacity` bytes moves, in and out, in the last of `passes` passes over
/// pages of these sizes, visited in order.
pub fn lru_bytes(pages: &[u64], capacity: u64, passes: usize) -> u64 {
    if pages.iter().sum::<u64>() <= capacity {
        return 0;
    }
    let mut cached: VecDeque<usize> = VecDeque::new();
    let mut held = 0;
    let mut moved = 0;
    for _ in 0..passes {
        moved = 0;
        for (page, bytes) in pages.iter().enumerate() {
            if let Some(at) = cached.iter().position(|cached| *cached == page) {
                cached.remove(at);
            } else {
                moved += bytes;
                held += bytes;
                while held > capacity {
                    // A page that is larger than the cache passes through it.
                    let Some(old) = cached.pop_front() else { break };
                    held -= pages[old];
                    moved += pages[old];
                }
                if held > capacity {
                    held -= bytes;
                    moved += bytes;
                    continue;
                }
            }
            cached.push_back(page);
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lru_misses_everything_as_soon_as_anything_is_missing() {
        let pages = [100; 10];
        assert_eq!(lru_bytes(&pages, 1000, 3), 0);
        for capacity in [999, 900, 500, 100, 0] {
            assert_eq!(lru_bytes(&pages, capacity, 3), 2000, "{capacity}");
        }
    }
}
