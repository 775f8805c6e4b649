//! One AdamW update of a parameter on a CubeCL device.

use burn_cubecl::tensor::CubeTensor;
use nf4::adamw::AdamWStep;
use qlora_cubecl::KernelError;
use qlora_cubecl::adamw::{Run, update_dynamic8, update_f32};

use super::pages::DevicePages;
use crate::error::PagedError;
use crate::slot::{Slot, SlotInit};
use crate::state_dtype::StateDtype;

impl DevicePages {
    /// Opens the store of `slot`'s pages on the device of `like`.
    ///
    /// # Errors
    /// [`PagedError::Device`] if they are on another one, which is kept in the slot's pool.
    pub fn open(slot: &Slot, like: &CubeTensor) -> Result<(), PagedError> {
        let name = name(like);
        slot.pool().open(&name, |config| {
            Self::on_device_of(like, name.clone(), config.page_bytes)
        })
    }

    fn on_device_of(like: &CubeTensor, name: String, page_bytes: usize) -> Self {
        Self::new(like.client.clone(), like.device.clone(), name, page_bytes)
    }
}

fn name(tensor: &CubeTensor) -> String {
    format!("{:?}", tensor.device)
}

/// Writes `param` as the update by `grad` makes it to `output`, all f32, contiguous and of the same shape, and
/// updates the moments in `slot`.
///
/// # Errors
/// A device that fails, or another device than the pages', which is kept in the slot's pool.
pub(crate) fn adamw(
    [param, grad, output]: [&CubeTensor; 3],
    slot: &Slot,
    init: &SlotInit,
    step: AdamWStep,
) -> Result<(), PagedError> {
    let client = &param.client;
    let buffers = [&param.handle, &grad.handle, &output.handle];
    let name = name(param);
    slot.pool().update(
        slot,
        init,
        &name,
        |config| DevicePages::on_device_of(param, name.clone(), config.page_bytes),
        |store, segment, pages| {
            let page = store.load(segment.page, pages)?;
            let run = Run {
                parameter: slot.elements(),
                first: segment.first,
                elements: segment.elements,
                page_words: store.page_words(),
                offset: segment.offset / 4,
                end: segment.end / 4,
            };
            match slot.dtype() {
                StateDtype::F32 => update_f32(client, buffers, &page, run, step),
                StateDtype::Dynamic8 => {
                    update_dynamic8(client, buffers, &page, &store.maps(), run, step)
                }
            }
            .map_err(refused)
        },
    )
}

fn refused(error: KernelError) -> PagedError {
    PagedError::DeviceFailed {
        reason: error.to_string(),
    }
}
