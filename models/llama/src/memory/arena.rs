//! The pages that CubeCL's adaptive memory reserves.
//!
//! That is how its devices serve tensors: cubecl-server's `memory_management/dynamic/{adaptive,arena}.rs`, whose names
//! stand in the docs here. Tensors of up to 64 KiB have pages of their own. All others are cut from pages
//! that are sized to the largest tensor so far; when a larger one comes, the pages before are given back as they
//! empty: weights stay on the pages that they were loaded to. No page of the current size is given back while a run
//! goes, so what is reserved is the most pages ever needed.
//!
//! SmolLM2 and `tiny_llama` took exactly the planned pages on wgpu in eleven settings. Beside them the device reports
//! 1.4 to 2.0 MB of kernels' arguments and of transfers, which have pools of their own and are not counted.

use super::Tensors;

const MIB: u64 = 1 << 20;

/// Bytes of a page for tensors of up to 64 KiB (`SMALL_PAGE`).
const SMALL_PAGE: u64 = 8 * MIB;

/// Bytes of the smallest other page (`MIN_PAGE`).
const MIN_PAGE: u64 = 2 * MIB;

/// Bytes that a page has beside the largest tensor, at least (`PAGE_SLACK`).
const PAGE_SLACK: u64 = MIB;

/// The unit of a page's size (`PAGE_GRANULE`).
const PAGE_GRANULE: u64 = MIB;

/// Tensors and the bytes of the largest one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) tensors: Tensors,
    pub(super) largest: u64,
}

/// Returns the bytes of the pages for the weights, which are loaded first, and for what is there beside them at `moments`,
/// of which the largest tensor has `largest` bytes.
pub(super) fn reserved(weights: Served, moments: &[Tensors], largest: u64) -> u64 {
    let most = |bytes: fn(&Tensors) -> u128| moments.iter().map(bytes).max().unwrap_or(0);
    let small = weights.tensors.small + most(|tensors| tensors.small);
    let large = most(|tensors| tensors.large);
    let (first, last) = (page_bytes(weights.largest), page_bytes(largest));
    let large = if first < last {
        pages(weights.tensors.large, first).saturating_add(pages(large, last))
    } else {
        pages(weights.tensors.large + large, first)
    };
    pages(small, SMALL_PAGE).saturating_add(large)
}

/// Returns `bytes` in whole pages.
fn pages(bytes: u128, page: u64) -> u64 {
    let pages = bytes.div_ceil(page as u128);
    u64::try_from(pages * page as u128).unwrap_or(u64::MAX)
}

/// Returns the bytes of a page for tensors of up to `largest` bytes (`PageSizing::fit`).
fn page_bytes(largest: u64) -> u64 {
    if largest <= MIN_PAGE {
        return MIN_PAGE;
    }
    largest
        .saturating_add(PAGE_SLACK)
        .checked_next_multiple_of(PAGE_GRANULE)
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_sized_to_the_largest_tensor() {
        assert_eq!(page_bytes(MIB), 2 * MIB);
        assert_eq!(page_bytes(10 * MIB), 11 * MIB);
        // SmolLM2's embedding in f32.
        assert_eq!(page_bytes(49_152 * 576 * 4), 109 * MIB);
    }

    #[test]
    fn each_kind_of_page_counts_by_its_own_peak() {
        let moment = |small, large| Tensors { small, large };
        let moments = [moment(1, 5 << 20), moment(9 << 20, 1)];
        let weights = |bytes| Served {
            tensors: moment(0, 3 << 20),
            largest: bytes,
        };
        // Together on four pages of 2 MiB, or the weights on two of them and the rest on one of 6 MiB.
        assert_eq!(reserved(weights(MIB), &moments, MIB), 24 * MIB);
        assert_eq!(reserved(weights(MIB), &moments, 5 * MIB), 26 * MIB);
    }
}
