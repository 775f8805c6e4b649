//! What a device's memory report shows while state that is not resident is updated. Alone in its process,
//! since the report is of the whole device.

#![cfg(any(feature = "wgpu", feature = "cpu"))]

use burn_core::tensor::{Device, Distribution, Tensor};
use burn_cubecl::CubeDevice;
use burn_paged::{Budget, PAGE_BYTES, PagedAdamWConfig};
use cubecl::MemoryScope;

/// Parameters of 1 MiB, with 2 MiB of state each.
const SHAPE: [usize; 2] = [1024, 256];
const PARAMETERS: usize = 12;
const PARAMETER_BYTES: u64 = 1 << 20;

fn devices() -> Vec<(Device, CubeDevice)> {
    vec![
        #[cfg(feature = "wgpu")]
        (
            Device::wgpu(burn_core::tensor::DeviceKind::DefaultDevice),
            CubeDevice::Wgpu(Default::default()),
        ),
        #[cfg(feature = "cpu")]
        (Device::cpu(), CubeDevice::Cpu(Default::default())),
    ]
}

/// What the allocations on the device use. The runtime's own staging buffers, through which a page passes on its
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
fn two_pages_of_state_are_all_that_is_on_the_device() {
    for device in devices() {
        let resident = peak(&device, Budget::Resident);
        let streamed = peak(&device, Budget::Bytes(0));
        let state = PARAMETERS as u64 * 2 * PARAMETER_BYTES;
        let pages = 2 * PAGE_BYTES as u64;
        assert!(streamed <= pages, "{streamed}");
        assert!(resident >= state, "{resident}");
        assert!(resident - streamed >= state - pages);
    }
}
