//! [`UnservedDevice`], and [`served_devices!`](crate::served_devices), which finds it.

use std::error::Error;
use std::fmt;

use burn_core::tensor::Device;

/// A device on which a crate's operations cannot run: the feature of its backend is off in that crate, or the crate has
/// nothing for that backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnservedDevice {
    package: &'static str,
    device: String,
    /// The feature to turn on, where one would help.
    feature: Option<&'static str>,
}

impl UnservedDevice {
    /// Describes a device that `package` does not serve, of whose backends `served` are the ones that a feature brings, by the
    /// names that Burn's dispatch has for them.
    pub fn new(package: &'static str, device: &Device, served: &[&str]) -> Self {
        let device = format!("{device:?}");
        let name = device.strip_prefix("Device<").unwrap_or(&device);
        let backend = name.split(|c: char| !c.is_alphanumeric()).next();
        let backend = backend.unwrap_or_default();
        let feature = served.contains(&backend).then(|| match backend {
            "Autodiff" => "autodiff",
            "Capture" => "capture",
            "Flex" => "flex",
            "LibTorch" => "tch",
            "NdArray" => "ndarray",
            "Remote" => "remote",
            // A runtime of CubeCL.
            _ if name.contains("Cuda(") || name.contains("CudaDevice") => "cuda",
            _ if name.contains("Hip(") => "rocm",
            _ if name.contains("Cpu(") => "cpu",
            _ => "wgpu",
        });
        Self {
            package,
            device,
            feature,
        }
    }

    /// Returns the feature to turn on, where one would help.
    pub fn feature(&self) -> Option<&'static str> {
        self.feature
    }
}

impl fmt::Display for UnservedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            package, device, ..
        } = self;
        match self.feature {
            Some(feature) => write!(
                f,
                "{package} was built without the feature `{feature}`, which {device} needs: turn it on in {package}, not in \
                 `burn` alone"
            ),
            None => write!(
                f,
                "{package} has nothing for the backend of {device}: use another device"
            ),
        }
    }
}

impl Error for UnservedDevice {}

/// Defines `check_device(device: &Device) -> Result<(), UnservedDevice>` for the calling crate, whose extension serves the
/// variants of `DispatchDevice` that are given, each with the feature of that crate which brings it: what is not compiled in
/// would otherwise end in a panic of the generated dispatch, which names neither crate nor feature. `Autodiff` stands first where
/// the extension serves it; without it, what an autodiff device wraps is checked. The calling crate depends on `burn-core` with
/// the feature `extension`.
#[macro_export]
macro_rules! served_devices {
    (Autodiff: $autodiff:tt, $($variant:ident: $feature:tt),+ $(,)?) => {
        $crate::served_devices!(@ ["Autodiff"] [
            // What autodiff wraps is a device too.
            #[cfg(feature = $autodiff)]
            ::burn_core::backend::DispatchDevice::Autodiff(device) => is_served(device),
        ] cfg!(feature = $autodiff), $($variant: $feature),+);
    };
    (@ [$($more:literal)?] [$($arms:tt)*] $unwrap:expr, $($variant:ident: $feature:tt),+) => {
        /// Checks that this build of the crate serves a device.
        pub(crate) fn check_device(
            device: &::burn_core::tensor::Device,
        ) -> ::std::result::Result<(), $crate::UnservedDevice> {
            fn is_served(device: &::burn_core::backend::DispatchDevice) -> bool {
                match device {
                    $($arms)*
                    $(
                        #[cfg(feature = $feature)]
                        ::burn_core::backend::DispatchDevice::$variant(_) => true,
                    )+
                    #[allow(unreachable_patterns)]
                    _ => false,
                }
            }
            if is_served(device.as_dispatch()) {
                return Ok(());
            }
            // Without its wrapper, where that is not what is missing.
            let bare = device.clone().without_autodiff();
            let device = if $unwrap { &bare } else { device };
            let served = [$($more,)? $(stringify!($variant)),+];
            Err($crate::UnservedDevice::new(env!("CARGO_PKG_NAME"), device, &served))
        }
    };
    ($($variant:ident: $feature:tt),+ $(,)?) => {
        $crate::served_devices!(@ [] [] true, $($variant: $feature),+);
    };
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_crate_and_the_feature_are_named() {
        let error = UnservedDevice::new("burn-x", &Device::flex(), &["Flex", "Cube"]);
        assert_eq!(error.feature(), Some("flex"));
        assert_eq!(
            error.to_string(),
            format!(
                "burn-x was built without the feature `flex`, which {:?} needs: turn it on in burn-x, not in `burn` alone",
                Device::flex()
            )
        );
    }

    #[test]
    fn no_feature_is_named_where_none_would_help() {
        let error = UnservedDevice::new("burn-x", &Device::flex(), &["Cube"]);
        assert_eq!(error.feature(), None);
        assert!(error.to_string().starts_with("burn-x has nothing for"));
    }
}
