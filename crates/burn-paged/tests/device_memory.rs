//! A device's memory report while state that is not resident is updated. Alone in its process,
//! since the report is of the whole device, and one test at a time.

#![cfg(feature = "cubecl-backend")]

use burn_core::tensor::{Device, Distribution, Tensor};
use burn_cubecl::CubeDevice;
use burn_paged::{Budget, PAGE_BYTES, PagedAdamWConfig};
use cubecl::MemoryScope;
use qlora_test_support::{TestDevice, alone, runtime};

/// Parameters of 1 MiB, with 2 MiB of state each.
const SHAPE: [usize; 2] = [1024, 256];
const PARAMETERS: usize = 12;
const PARAMETER_BYTES: u64 = 1 << 20;
/// What streams are put in order by on CUDA, until the runtime takes it back: allocations of four bytes, which take 512.
const TOKENS: u64 = 16 << 10;

/// The devices that report their memory, with the runtime that does it.
fn devices() -> Vec<(Device, CubeDevice)> {
    let devices = qlora_test_support::devices!().into_iter();
    devices
        .filter(TestDevice::is_cubecl)
        .map(|device| (device.device, runtime(device.name)))
        .collect()
}

/// Returns the bytes in use on the device. The runtime's own staging buffers, through which a page passes on its
/// way to the host, are not among them.
fn in_use((device, report): &(Device, CubeDevice)) -> u64 {
    device.sync().unwrap();
    let report = report.client().memory_report(MemoryScope::Device);
    let pools = report.streams.iter().map(|stream| stream.pools.usage());
    pools.map(|usage| usage.bytes_in_use).sum()
}

/// The most that the report shows above parameters and gradients, after any update of three steps.
fn peak(device: &(Device, CubeDevice), budget: Budget) -> u64 {
    let optimizer = PagedAdamWConfig::new().with_budget(budget).build().unwrap();
    let random = || Tensor::<2>::random(SHAPE, Distribution::Default, &device.0);
    let mut params: Vec<_> = (0..PARAMETERS).map(|_| random()).collect();
    let grad = random();
    let mut states: Vec<_> = params.iter().map(|_| None).collect();
    let before = in_use(device);
    let mut peak = 0;
    for _ in 0..3 {
        for (param, state) in params.iter_mut().zip(&mut states) {
            let (updated, new) = optimizer
                .try_step(1e-3, param.clone(), grad.clone(), state.take())
                .unwrap();
            (*param, *state) = (updated, Some(new));
            peak = peak.max(in_use(device).saturating_sub(before));
        }
        optimizer.end_step().unwrap();
        peak = peak.max(in_use(device).saturating_sub(before));
    }
    let report = optimizer.report();
    assert_eq!(report.state_bytes, PARAMETERS as u64 * 2 * PARAMETER_BYTES);
    println!("{budget}: {peak} bytes of {}", report.state_bytes);
    peak
}

#[test]
fn pages_that_have_to_leave_are_given_back() {
    let _alone = alone();
    for device in devices() {
        let optimizer = |limit| {
            let config = PagedAdamWConfig::new().with_budget(Budget::Auto);
            config.with_memory_limit(Some(limit)).build().unwrap()
        };
        let random = || Tensor::<2>::random(SHAPE, Distribution::Default, &device.0);
        let (param, grad) = (random(), random());
        let mut left = Vec::new();
        for limit in [1 << 40, 1] {
            let before = in_use(&device);
            let optimizer = optimizer(limit);
            let states: Vec<_> = (0..PARAMETERS)
                .map(|_| {
                    let stepped = optimizer.try_step(1e-3, param.clone(), grad.clone(), None);
                    stepped.unwrap().1
                })
                .collect();
            optimizer.prepare().unwrap();
            let resident = optimizer.report().resident_bytes;
            left.push((resident, in_use(&device).saturating_sub(before)));
            drop(states);
        }
        let state = PARAMETERS as u64 * 2 * PARAMETER_BYTES;
        assert_eq!(left[0].0, state);
        assert!(left[0].1 >= state, "{left:?}");
        assert_eq!(left[1].0, 0);
        assert!(left[1].1 <= 2 * PAGE_BYTES as u64 + TOKENS, "{left:?}");
    }
}

#[test]
fn two_pages_of_state_are_all_that_is_on_the_device() {
    let _alone = alone();
    for device in devices() {
        let resident = peak(&device, Budget::Resident);
        let streamed = peak(&device, Budget::Bytes(0));
        let state = PARAMETERS as u64 * 2 * PARAMETER_BYTES;
        let pages = 2 * PAGE_BYTES as u64 + TOKENS;
        assert!(streamed <= pages, "{streamed}");
        assert!(resident >= state, "{resident}");
        assert!(resident - streamed >= state - pages);
    }
}
