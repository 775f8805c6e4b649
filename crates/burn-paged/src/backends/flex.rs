//! Flex: pages in RAM or a file, updated in place by the kernels of `qlora-cpu`.

use std::sync::Arc;

use burn_core::backend::{Flex, tensor::FloatTensor};
use burn_flex::FlexTensor;
use nf4::adamw::AdamWStep;

use crate::host::{self, HostPages};
use crate::ops::PagedOps;
use crate::slot::{Slot, SlotInit};

/// The name that errors have for the device.
const DEVICE: &str = "Flex";

impl PagedOps for Flex {
    fn paged_open(like: FloatTensor<Self>, slot: Arc<Slot>) -> FloatTensor<Self> {
        // What goes wrong is kept in the pool.
        let _ = slot
            .pool()
            .open(DEVICE, |config| HostPages::open(config, DEVICE));
        like
    }

    fn paged_adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        slot: Arc<Slot>,
        init: SlotInit,
        step: AdamWStep,
    ) -> FloatTensor<Self> {
        let (mut param, grad) = (compact(param), compact(grad));
        // What goes wrong is kept in the pool.
        let _ = host::adamw(
            DEVICE,
            param.storage_mut(),
            grad.storage(),
            &slot,
            &init,
            step,
        );
        param
    }
}

/// Returns the tensor in row-major order, alone in its storage's length.
fn compact(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.layout().contiguous_offsets() == Some((0, tensor.storage::<f32>().len()));
    if whole {
        tensor
    } else {
        tensor.to_contiguous()
    }
}
