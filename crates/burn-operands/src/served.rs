//! [`UnservedDevice`], and [`served_devices!`](crate::served_devices), which finds it.

use std::error::Error;
use std::fmt;

use burn_core::tensor::Device;

/// A device on which a crate's operations cannot run: the feature of its backend is off in that crate, another feature is in its way,
/// or the crate has nothing for that backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnservedDevice {
    package: &'static str,
    device: String,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The feature that would bring the backend.
    Off(&'static str),
    /// The feature with which the backend is not served.
    InTheWay(&'static str),
    NoBackend,
}

impl UnservedDevice {
    /// Describes a device that `package` does not serve. `served` are the backends that a feature brings, by the names that Burn's
    /// dispatch has for them, each with the feature that is on and with which it is not served.
    pub fn new(
        package: &'static str,
        device: &Device,
        served: &[(&str, Option<&'static str>)],
    ) -> Self {
        let device = format!("{device:?}");
        let name = device.strip_prefix("Device<").unwrap_or(&device);
        let backend = name.split(|c: char| !c.is_alphanumeric()).next();
        let backend = backend.unwrap_or_default();
        let reason = match served.iter().find(|(name, _)| *name == backend) {
            None => Reason::NoBackend,
            Some((_, Some(other))) => Reason::InTheWay(other),
            Some((_, None)) => Reason::Off(match backend {
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
            }),
        };
        Self {
            package,
            device,
            reason,
        }
    }

    /// Returns the feature to turn on, where one would help.
    pub fn feature(&self) -> Option<&'static str> {
        match self.reason {
            Reason::Off(feature) => Some(feature),
            Reason::InTheWay(_) | Reason::NoBackend => None,
        }
    }
}

impl fmt::Display for UnservedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            package, device, ..
        } = self;
        match self.reason {
            Reason::Off(feature) => write!(
                f,
                "{package} was built without the feature `{feature}`, which {device} needs: turn it on in {package}, not in \
                 `burn` alone"
            ),
            Reason::InTheWay(feature) => write!(
                f,
                "{package} was built with the feature `{feature}`, with which it does not serve {device}: build without it"
            ),
            Reason::NoBackend => write!(
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
/// the extension serves it; without it, what an autodiff device wraps is checked. `without` names a feature with which the variant
/// is not served. The calling crate depends on `burn-core` with the feature `extension`.
#[macro_export]
macro_rules! served_devices {
    (Autodiff: $autodiff:tt, $($variant:ident: $feature:tt $(without $other:tt)?),+ $(,)?) => {
        $crate::served_devices!(@ ["Autodiff"] [
            // What autodiff wraps is a device too.
            #[cfg(feature = $autodiff)]
            ::burn_core::backend::DispatchDevice::Autodiff(device) => is_served(device),
        ] cfg!(feature = $autodiff), $($variant: $feature $(without $other)?),+);
    };
    (@ [$($more:literal)?] [$($arms:tt)*] $unwrap:expr, $($variant:ident: $feature:tt $(without $other:tt)?),+) => {
        /// Checks that this build of the crate serves a device.
        pub(crate) fn check_device(
            device: &::burn_core::tensor::Device,
        ) -> ::std::result::Result<(), $crate::UnservedDevice> {
            fn is_served(device: &::burn_core::backend::DispatchDevice) -> bool {
                match device {
                    $($arms)*
                    $(
                        #[cfg(all(feature = $feature $(, not(feature = $other))?))]
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
            let served = [
                $(($more, None),)?
                $((stringify!($variant), None $(.or(cfg!(feature = $other).then_some($other)))?)),+
            ];
            Err($crate::UnservedDevice::new(env!("CARGO_PKG_NAME"), device, &served))
        }
    };
    ($($variant:ident: $feature:tt $(without $other:tt)?),+ $(,)?) => {
        $crate::served_devices!(@ [] [] true, $($variant: $feature $(without $other)?),+);
    };
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_crate_and_the_feature_are_named() {
        let error =
            UnservedDevice::new("burn-x", &Device::flex(), &[("Flex", None), ("Cube", None)]);
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
    fn a_feature_in_the_way_is_named() {
        let served = [("Flex", Some("fusion"))];
        let error = UnservedDevice::new("burn-x", &Device::flex(), &served);
        assert_eq!(error.feature(), None);
        assert_eq!(
            error.to_string(),
            format!(
                "burn-x was built with the feature `fusion`, with which it does not serve {:?}: build without it",
                Device::flex()
            )
        );
    }

    #[test]
    fn no_feature_is_named_where_none_would_help() {
        let error = UnservedDevice::new("burn-x", &Device::flex(), &[("Cube", None)]);
        assert_eq!(error.feature(), None);
        assert!(error.to_string().starts_with("burn-x has nothing for"));
    }
}
