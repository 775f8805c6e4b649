//! Where a session computes.

use burn::tensor::Device;

use crate::error::SessionError;

/// A device, and what the browser has reported of it.
#[derive(Clone, Debug)]
pub struct Processor {
    device: Device,
    #[cfg(feature = "wgpu")]
    reported: reported::Reported,
}

impl Processor {
    /// Returns the CPU, with Burn's backend in pure Rust.
    pub fn cpu() -> Self {
        Self {
            device: Device::flex(),
            #[cfg(feature = "wgpu")]
            reported: reported::Reported::default(),
        }
    }

    /// Returns the GPU that the browser hands out by WebGPU, or that of the machine elsewhere. To be called once: Burn has one
    /// such device in a program.
    ///
    /// # Errors
    /// [`SessionError::NoGpu`].
    #[cfg(feature = "wgpu")]
    pub async fn gpu() -> Result<Self, SessionError> {
        let options = Device::wgpu_options();
        let (device, setup) = options
            .init_with_setup_async()
            .await
            .map_err(|error| SessionError::NoGpu(error.to_string()))?;
        let reported = reported::Reported::of(&setup.device);
        Ok(Self { device, reported })
    }

    /// Returns the device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Refuses a device that has reported an error: what it computed after that is worth nothing. In a browser Burn does not see
    /// such errors.
    ///
    /// # Errors
    /// [`SessionError::Gpu`].
    pub fn check(&self) -> Result<(), SessionError> {
        #[cfg(feature = "wgpu")]
        if let Some(error) = self.reported.first() {
            return Err(SessionError::Gpu(error));
        }
        Ok(())
    }
}

#[cfg(feature = "wgpu")]
mod reported {
    use std::sync::{Arc, OnceLock};

    use burn::tensor::wgpu::wgpu;

    /// The first error that a GPU reported outside of any operation, if there was one.
    #[derive(Clone, Debug, Default)]
    pub struct Reported(Arc<OnceLock<String>>);

    impl Reported {
        /// Listens to `device`.
        pub fn of(device: &wgpu::Device) -> Self {
            let reported = Self::default();
            let listening = reported.clone();
            device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
                listening.report(error.to_string());
            }));
            let listening = reported.clone();
            device.set_device_lost_callback(move |reason, message| {
                listening.report(format!("it was lost ({reason:?}): {message}"));
            });
            reported
        }

        fn report(&self, error: String) {
            // Those after the first follow from it.
            let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = self.0.set(line);
        }

        pub fn first(&self) -> Option<String> {
            self.0.get().cloned()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_first_error_stays_in_one_line() {
            let reported = Reported::default();
            assert_eq!(reported.first(), None);
            reported.report("no\n memory".to_owned());
            reported.report("no pipeline".to_owned());
            assert_eq!(reported.first().unwrap(), "no memory");
        }
    }
}
