//! The device a command runs on: `flex`, `wgpu`, `wgpu:1`, `cuda:0`, ...
//!
//! The kinds are decided when the binary is built (one cargo feature each), the devices found when it runs. An error
//! lists both.

/// The driver's library of a CUDA device.
mod driver;

use std::fmt;
use std::panic;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use burn::tensor::{Device, DeviceType};

/// A family of devices, by the name of the cargo feature that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pure Rust on the CPU.
    Flex,
    /// Any GPU through wgpu.
    Wgpu,
    /// Vulkan, pinned.
    Vulkan,
    /// Metal, pinned.
    Metal,
    /// WebGPU, pinned.
    WebGpu,
    /// NVIDIA.
    Cuda,
    /// AMD.
    Rocm,
    /// CubeCL's CPU runtime.
    Cpu,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Flex,
        Kind::Wgpu,
        Kind::Vulkan,
        Kind::Metal,
        Kind::WebGpu,
        Kind::Cuda,
        Kind::Rocm,
        Kind::Cpu,
    ];

    /// Returns the name on the command line, which is also the cargo feature.
    fn name(self) -> &'static str {
        match self {
            Kind::Flex => "flex",
            Kind::Wgpu => "wgpu",
            Kind::Vulkan => "vulkan",
            Kind::Metal => "metal",
            Kind::WebGpu => "webgpu",
            Kind::Cuda => "cuda",
            Kind::Rocm => "rocm",
            Kind::Cpu => "cpu",
        }
    }

    /// Returns Burn's name of the kind, if this binary was built with it.
    fn device_type(self) -> Option<DeviceType> {
        match self {
            #[cfg(feature = "flex")]
            Kind::Flex => Some(DeviceType::Flex),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu => Some(DeviceType::Wgpu),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan => Some(DeviceType::Vulkan),
            #[cfg(feature = "metal")]
            Kind::Metal => Some(DeviceType::Metal),
            #[cfg(feature = "webgpu")]
            Kind::WebGpu => Some(DeviceType::WebGpu),
            #[cfg(feature = "cuda")]
            Kind::Cuda => Some(DeviceType::Cuda),
            #[cfg(feature = "rocm")]
            Kind::Rocm => Some(DeviceType::Rocm),
            #[cfg(feature = "cpu")]
            Kind::Cpu => Some(DeviceType::Cpu),
            #[allow(unreachable_patterns)] // all features on: nothing is left
            _ => None,
        }
    }
}

/// A device as it is written on the command line: a kind, and its number among those of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceName {
    kind: Kind,
    index: usize,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => {
                let index = index.parse().map_err(|_| {
                    format!("`{index}` is not a device number; write {name}:0 for the first one")
                })?;
                (name, index)
            }
            None => (text, 0),
        };
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                format!(
                    "there is no such kind of device; known are {}",
                    names(&Kind::ALL)
                )
            })?;
        Ok(Self { kind, index })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.index > 0 {
            write!(f, ":{}", self.index)
        } else {
            Ok(())
        }
    }
}

impl Default for DeviceName {
    fn default() -> Self {
        Self {
            kind: Kind::Flex,
            index: 0,
        }
    }
}

impl DeviceName {
    /// Returns whether it computes in the memory of this process.
    pub fn is_host(self) -> bool {
        matches!(self.kind, Kind::Flex | Kind::Cpu)
    }

    /// Returns whether it computes with Flex's own kernels, in the memory of this process.
    pub fn is_flex(self) -> bool {
        self.kind == Kind::Flex
    }

    /// Returns its number among those of its kind.
    #[cfg(feature = "mpi")]
    pub fn index(self) -> usize {
        self.index
    }

    /// Returns the device of its kind with another number.
    #[cfg(feature = "mpi")]
    pub fn with_index(self, index: usize) -> Self {
        Self { index, ..self }
    }

    /// Returns how many there are of its kind on this machine.
    #[cfg(feature = "mpi")]
    pub fn count(self) -> usize {
        self.kind
            .device_type()
            .map_or(0, |kind| enumerate(kind).len())
    }

    /// Returns the name of its kind.
    pub fn kind_name(self) -> &'static str {
        self.kind.name()
    }

    /// Finds the device on this machine.
    ///
    /// # Errors
    /// A kind that this binary was built without, or that has no device of this number here; CUDA without what its kernels
    /// are compiled with.
    pub fn open(self) -> Result<Device> {
        let kind = self.kind.name();
        let Some(device_type) = self.kind.device_type() else {
            let built: Vec<Kind> = Kind::ALL
                .into_iter()
                .filter(|kind| kind.device_type().is_some())
                .collect();
            bail!(
                "device {self}: this finetune was built without `{kind}` (it has {}); \
                 build it with `--features {kind}`",
                names(&built)
            );
        };
        let devices = enumerate(device_type);
        if self.kind == Kind::Cuda {
            if devices.is_empty() {
                driver::check(driver::LIBRARY)
                    .map_err(|error| anyhow!("device {self}: {error}"))?;
            }
            burn_qlora::cuda::libdevice().map_err(|error| anyhow!("device {self}: {error}"))?;
        }
        match devices.get(self.index) {
            Some(device) => Ok(device.clone()),
            None => bail!(
                "device {self}: this machine has {} {kind} device{}; name another with --device",
                if devices.is_empty() {
                    "no".to_string()
                } else {
                    devices.len().to_string()
                },
                if devices.len() == 1 {
                    ", numbered from 0"
                } else {
                    "s, numbered from 0"
                },
            ),
        }
    }
}

/// Returns the devices of a kind; none where its driver is missing, on which some runtimes panic.
fn enumerate(device_type: DeviceType) -> Vec<Device> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let devices = panic::catch_unwind(|| Device::enumerate(device_type).into_vec());
    panic::set_hook(hook);
    devices.unwrap_or_default()
}

/// `a, b and c`.
fn names(kinds: &[Kind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    match names.split_last() {
        Some((last, [])) => last.to_string(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["flex", "wgpu", "cuda:3"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn nonsense_is_told_what_there_is() {
        assert!(
            "tpu"
                .parse::<DeviceName>()
                .unwrap_err()
                .contains("flex, wgpu")
        );
        assert!(
            "cuda:first"
                .parse::<DeviceName>()
                .unwrap_err()
                .contains("cuda:0")
        );
    }

    #[cfg(feature = "flex")]
    #[test]
    fn a_number_past_the_last_device_is_refused() {
        assert!("flex".parse::<DeviceName>().unwrap().open().is_ok());
        let error = "flex:9".parse::<DeviceName>().unwrap().open().unwrap_err();
        assert!(error.to_string().contains("flex:9"), "{error}");
    }
}
