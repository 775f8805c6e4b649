//! CubeCL: pages in host memory or on the device, updated by the kernels of `qlora-cubecl`.

use std::sync::Arc;

use burn_core::backend::tensor::FloatTensor;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use nf4::adamw::AdamWStep;
use qlora_cubecl::KernelError;
use qlora_cubecl::adamw::{Run, update_dynamic8, update_f32};

use crate::device::DevicePages;
use crate::pool::{Begin, Home, Inner, PoolSettings, Slot};
use crate::table::Precision;
use crate::{PagedError, PagedOps};

impl PagedOps for CubeBackend {
    fn paged_open(like: FloatTensor<Self>, slot: Arc<Slot>) -> FloatTensor<Self> {
        // What goes wrong is kept in the pool.
        let _ = slot.pool().with(|inner| {
            inner.home(|settings| open(settings, &like));
            Ok(())
        });
        like
    }

    fn paged_adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        slot: Arc<Slot>,
        begin: Begin,
        step: AdamWStep,
    ) -> FloatTensor<Self> {
        let param = into_contiguous(param);
        let grad = into_contiguous(grad);
        let output = CubeTensor::new_contiguous(
            param.client.clone(),
            param.device.clone(),
            param.meta.shape().clone(),
            param.client.empty(4 * slot.elements()),
            param.dtype,
        );
        // What goes wrong is kept in the pool.
        let updated = slot
            .pool()
            .with(|inner| update(inner, &slot, &begin, [&param, &grad, &output], step));
        match updated {
            Ok(()) => output,
            Err(_) => param,
        }
    }
}

fn open(settings: &PoolSettings, like: &CubeTensor) -> Home {
    Home::Device(Box::new(DevicePages::new(
        like.client.clone(),
        like.device.clone(),
        settings.page_bytes,
    )))
}

fn update(
    inner: &mut Inner,
    slot: &Slot,
    begin: &Begin,
    [param, grad, output]: [&CubeTensor; 3],
    step: AdamWStep,
) -> Result<(), PagedError> {
    inner.home(|settings| open(settings, param));
    let page_words = inner.page_bytes() / 4;
    for segment in inner.begin(slot, begin)? {
        let page = inner.device_page(&param.device, segment.page)?;
        let run = Run {
            parameter: slot.elements(),
            first: segment.first,
            elements: segment.elements,
            page_words,
            offset: segment.offset / 4,
            end: segment.end / 4,
        };
        let buffers = [&param.handle, &grad.handle, &output.handle];
        let client = &param.client;
        match slot.precision() {
            Precision::F32 => update_f32(client, buffers, &page, run, step),
            Precision::Dynamic8 => {
                let maps = inner.device_maps()?;
                update_dynamic8(client, buffers, &page, &maps, run, step)
            }
        }
        .map_err(refused)?;
    }
    Ok(())
}

fn refused(error: KernelError) -> PagedError {
    PagedError::DeviceFailed {
        reason: error.to_string(),
    }
}
