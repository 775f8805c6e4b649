//! CubeCL: pages in host memory or on the device, updated by the kernels of `qlora-cubecl`.

use std::sync::Arc;

use burn_core::backend::tensor::FloatTensor;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use qlora_cubecl::KernelError;
use qlora_cubecl::adamw::{Factors, Run, dynamic8, f32};

use crate::device::DevicePages;
use crate::pool::{Begin, Home, Inner, PoolSettings, Slot};
use crate::table::Precision;
use crate::{PagedError, PagedOps, Rule};

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
        rule: Rule,
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
            .with(|inner| update(inner, &slot, &begin, [&param, &grad, &output], rule));
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
    rule: Rule,
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
        let factors = factors(rule);
        let client = &param.client;
        match slot.precision() {
            Precision::F32 => f32::update(client, buffers, &page, run, factors),
            Precision::Dynamic8 => {
                let maps = inner.device_maps()?;
                dynamic8::update(client, buffers, &page, &maps, run, factors)
            }
        }
        .map_err(refused)?;
    }
    Ok(())
}

fn factors(rule: Rule) -> Factors {
    Factors {
        rate_1: rule.rate_1,
        beta_2: rule.beta_2,
        rate_2: rule.rate_2,
        correction_2: rule.correction_2,
        epsilon: rule.epsilon,
        decay: rule.decay,
        step_size: rule.step_size,
    }
}

fn refused(error: KernelError) -> PagedError {
    PagedError::DeviceFailed {
        reason: error.to_string(),
    }
}
