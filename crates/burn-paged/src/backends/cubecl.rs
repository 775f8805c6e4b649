//! CubeCL: pages in host memory or on the device, updated by the kernels of `qlora-cubecl`.

use std::sync::Arc;

use burn_core::backend::tensor::FloatTensor;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use nf4::adamw::AdamWStep;

use crate::device::{self, DevicePages};
use crate::ops::PagedOps;
use crate::slot::{Slot, SlotInit};

impl PagedOps for CubeBackend {
    fn paged_open(like: FloatTensor<Self>, slot: Arc<Slot>) -> FloatTensor<Self> {
        // What goes wrong is kept in the pool.
        let _ = DevicePages::open(&slot, &like);
        like
    }

    fn paged_adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        slot: Arc<Slot>,
        init: SlotInit,
        step: AdamWStep,
    ) -> FloatTensor<Self> {
        let (param, grad) = (into_contiguous(param), into_contiguous(grad));
        let output = CubeTensor::new_contiguous(
            param.client.clone(),
            param.device.clone(),
            param.meta.shape().clone(),
            param.client.empty(4 * slot.elements()),
            param.dtype,
        );
        // What goes wrong is kept in the pool.
        match device::adamw([&param, &grad, &output], &slot, &init, step) {
            Ok(()) => output,
            Err(_) => param,
        }
    }
}
