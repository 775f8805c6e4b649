//! Flex: pages in RAM or a file, updated in place by the CPU.

use std::sync::Arc;

use burn_core::backend::{Flex, tensor::FloatTensor};
use burn_flex::FlexTensor;
use nf4::adamw::AdamWStep;
use qlora_cpu::adamw::{update_dynamic8, update_f32};

use crate::host::HostPages;
use crate::pool::{Begin, Home, Inner, PoolSettings, Slot};
use crate::table::Precision;
use crate::{PagedError, PagedOps};

impl PagedOps for Flex {
    fn paged_open(like: FloatTensor<Self>, slot: Arc<Slot>) -> FloatTensor<Self> {
        // What goes wrong is kept in the pool.
        let _ = slot.pool().with(|inner| {
            inner.home(open);
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
        let mut param = compact(param);
        let grad = compact(grad);
        let values = param.storage_mut::<f32>();
        let grad = grad.storage::<f32>();
        // What goes wrong is kept in the pool.
        let _ = slot
            .pool()
            .with(|inner| update(inner, &slot, &begin, values, grad, step));
        param
    }
}

fn open(settings: &PoolSettings) -> Home {
    Home::Host(Box::new(HostPages::new(
        settings.page_file.clone(),
        settings.page_bytes,
    )))
}

fn update(
    inner: &mut Inner,
    slot: &Slot,
    begin: &Begin,
    param: &mut [f32],
    grad: &[f32],
    step: AdamWStep,
) -> Result<(), PagedError> {
    inner.home(open);
    for segment in inner.begin(slot, begin)? {
        let bytes = inner.host_run(&segment)?;
        let range = segment.first..segment.first + segment.elements;
        let (param, grad) = (&mut param[range.clone()], &grad[range]);
        match slot.precision() {
            Precision::F32 => {
                let values: &mut [f32] = bytemuck::cast_slice_mut(bytes);
                let (m, v) = values.split_at_mut(values.len() / 2);
                let elements = param.len();
                update_f32(param, grad, &mut m[..elements], &mut v[..elements], step);
            }
            Precision::Dynamic8 => update_dynamic8(param, grad, bytes, step),
        }
    }
    Ok(())
}

/// The tensor in row-major order, alone in its storage's length.
fn compact(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.layout().contiguous_offsets() == Some((0, tensor.storage::<f32>().len()));
    if whole {
        tensor
    } else {
        tensor.to_contiguous()
    }
}
