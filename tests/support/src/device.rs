pub use burn_core::tensor::{Device, DeviceKind};

/// The message of a test that was compiled without a device.
pub const NO_DEVICE: &str = "no device is compiled in: turn on one of the features flex, ndarray, tch, wgpu, vulkan, metal, webgpu, cuda, rocm, cpu";

/// A device that tests run on.
#[derive(Clone, Debug)]
pub struct TestDevice {
    /// The feature that compiled it in, which is also what the command line calls it.
    pub name: &'static str,
    /// The device, without autodiff.
    pub device: Device,
}

impl TestDevice {
    /// Names a device; [`devices!`](crate::devices) knows all of them.
    pub fn new(name: &'static str, device: Device) -> Self {
        Self { name, device }
    }

    /// Returns whether this is the pure Rust CPU backend, whose sums have one order.
    pub fn is_flex(&self) -> bool {
        self.name == "flex"
    }

    /// Returns whether a runtime of CubeCL runs it.
    pub fn is_cubecl(&self) -> bool {
        !["flex", "ndarray", "tch"].contains(&self.name)
    }

    /// Returns whether this is the software CUDA device (`scripts/ptx-device.sh`), on which minutes go by where other devices
    /// take seconds.
    pub fn is_software_cuda(&self) -> bool {
        self.name == "cuda" && std::env::var_os("QLORA_SOFTWARE_CUDA").is_some()
    }
}

/// The names of all devices, which are those of their features.
const NAMES: [&str; 10] = [
    "flex", "ndarray", "tch", "wgpu", "vulkan", "metal", "webgpu", "cuda", "rocm", "cpu",
];

/// The devices that the environment variable `QLORA_DEVICES` names, parted by commas, of those compiled in; all of them without
/// it, and in a crate that has none of them compiled in.
///
/// # Panics
/// If none is compiled in, or a name is no device's.
pub fn chosen(compiled_in: Vec<TestDevice>) -> Vec<TestDevice> {
    assert!(!compiled_in.is_empty(), "{NO_DEVICE}");
    let Ok(names) = std::env::var("QLORA_DEVICES") else {
        return compiled_in;
    };
    let names: Vec<&str> = names.split(',').collect();
    for name in &names {
        assert!(NAMES.contains(name), "QLORA_DEVICES: {name:?} is no device");
    }
    let (named, others): (Vec<_>, Vec<_>) = compiled_in
        .into_iter()
        .partition(|device| names.contains(&device.name));
    if named.is_empty() { others } else { named }
}

/// The devices that tests run on: every one that the features of the calling crate compile in and [`chosen`](crate::chosen)
/// leaves, as a vector of [`TestDevice`](crate::TestDevice) that is not empty. The calling crate has all of the features `flex`,
/// `ndarray`, `tch`, `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda`, `rocm` and `cpu`. It is a macro because features of this crate would be the union of those
/// of all crates that are tested together.
#[macro_export]
macro_rules! devices {
    () => {
        $crate::chosen($crate::compiled_in!())
    };
}

/// Every device that the features of the calling crate compile in.
#[doc(hidden)]
#[macro_export]
macro_rules! compiled_in {
    () => {{
        ::std::vec![
            #[cfg(feature = "flex")]
            $crate::TestDevice::new("flex", $crate::Device::flex()),
            #[cfg(feature = "ndarray")]
            #[allow(deprecated)]
            $crate::TestDevice::new("ndarray", $crate::Device::ndarray()),
            #[cfg(feature = "tch")]
            #[allow(deprecated)]
            $crate::TestDevice::new("tch", $crate::Device::libtorch()),
            #[cfg(feature = "wgpu")]
            $crate::TestDevice::new(
                "wgpu",
                $crate::Device::wgpu($crate::DeviceKind::DefaultDevice)
            ),
            #[cfg(feature = "vulkan")]
            $crate::TestDevice::new(
                "vulkan",
                $crate::Device::vulkan($crate::DeviceKind::DefaultDevice)
            ),
            #[cfg(feature = "metal")]
            $crate::TestDevice::new(
                "metal",
                $crate::Device::metal($crate::DeviceKind::DefaultDevice)
            ),
            #[cfg(feature = "webgpu")]
            $crate::TestDevice::new(
                "webgpu",
                $crate::Device::webgpu($crate::DeviceKind::DefaultDevice)
            ),
            #[cfg(feature = "cuda")]
            $crate::TestDevice::new("cuda", $crate::Device::cuda(0)),
            #[cfg(feature = "rocm")]
            $crate::TestDevice::new("rocm", $crate::Device::rocm(0)),
            #[cfg(feature = "cpu")]
            $crate::TestDevice::new("cpu", $crate::Device::cpu()),
        ]
    }};
}

/// The same tests once on every device that the features of the calling crate compile in, in a module of the device's name; one
/// test that fails where there is none.
///
/// `on_every_device!(in run: module::test, …)` hands [`TestDevice`](crate::TestDevice) and test to `run`, which says what a
/// test is given and what it runs beside.
#[macro_export]
macro_rules! on_every_device {
    (in $run:path: $($tests:tt)+) => {
        #[cfg(feature = "flex")]
        $crate::on_one_device!(flex in $run: $($tests)+);
        #[cfg(feature = "ndarray")]
        $crate::on_one_device!(ndarray in $run: $($tests)+);
        #[cfg(feature = "tch")]
        $crate::on_one_device!(tch in $run: $($tests)+);
        $crate::on_compiled_runtimes!(on_one_device in $run: $($tests)+);
        $crate::without_runtimes! {
            #[cfg(not(any(feature = "flex", feature = "ndarray", feature = "tch")))]
            #[test]
            fn a_device_is_compiled_in() {
                panic!("{}", $crate::NO_DEVICE);
            }
        }
    };
}

/// The tests of [`on_every_device!`] on the device whose feature is `$name`.
#[doc(hidden)]
#[allow(
    clippy::crate_in_macro_def,
    reason = "the tests are in the calling crate"
)]
#[macro_export]
macro_rules! on_one_device {
    ($name:ident in $run:path: $($module:ident::$test:ident),+ $(,)?) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    let mut devices = $crate::compiled_in!().into_iter();
                    let device = devices.find(|device| device.name == stringify!($name));
                    $run(device.expect("its feature is on"), crate::$module::$test);
                }
            )+
        }
    };
}
