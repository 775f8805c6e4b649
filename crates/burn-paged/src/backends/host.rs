//! NdArray and LibTorch: pages in RAM or a file, updated by the kernels of `qlora-cpu` in a copy of the parameter on the host.

use std::sync::Arc;

use burn_core::backend::{Backend, TensorMetadata, read_sync, tensor::FloatTensor};
use burn_core::tensor::{ExecutionError, TensorData};
use nf4::adamw::AdamWStep;

use crate::error::PagedError;
use crate::host::{self, HostPages};
use crate::ops::PagedOps;
use crate::slot::{Slot, SlotInit};

#[cfg(feature = "ndarray")]
impl PagedOps for burn_core::backend::NdArray {
    fn paged_open(like: FloatTensor<Self>, slot: Arc<Slot>) -> FloatTensor<Self> {
        open::<Self>(like, &slot)
    }

    fn paged_adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        slot: Arc<Slot>,
        init: SlotInit,
        step: AdamWStep,
    ) -> FloatTensor<Self> {
        adamw::<Self>(param, grad, &slot, &init, step)
    }
}

#[cfg(feature = "tch")]
impl PagedOps for burn_core::backend::LibTorch {
    fn paged_open(like: FloatTensor<Self>, slot: Arc<Slot>) -> FloatTensor<Self> {
        open::<Self>(like, &slot)
    }

    fn paged_adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        slot: Arc<Slot>,
        init: SlotInit,
        step: AdamWStep,
    ) -> FloatTensor<Self> {
        adamw::<Self>(param, grad, &slot, &init, step)
    }
}

fn open<B: Backend>(like: FloatTensor<B>, slot: &Slot) -> FloatTensor<B> {
    let device = format!("{:?}", like.device());
    // What goes wrong is kept in the pool.
    let _ = slot
        .pool()
        .open(&device, |config| HostPages::open(config, &device));
    like
}

fn adamw<B: Backend>(
    param: FloatTensor<B>,
    grad: FloatTensor<B>,
    slot: &Slot,
    init: &SlotInit,
    step: AdamWStep,
) -> FloatTensor<B> {
    let (shape, device) = (param.shape(), param.device());
    let values = [param.clone(), grad].map(|tensor| read(B::float_into_data(tensor)));
    let [mut values, grad] = match values {
        [Ok(values), Ok(grad)] => [values, grad],
        [Err(error), _] | [_, Err(error)] => {
            slot.pool().fail(error);
            return param;
        }
    };
    let name = format!("{device:?}");
    match host::adamw(&name, &mut values, &grad, slot, init, step) {
        Ok(()) => B::float_from_data(TensorData::new(values, shape), &device),
        // What goes wrong is kept in the pool.
        Err(_) => param,
    }
}

/// Waits for the values of an f32 tensor.
fn read(
    values: impl Future<Output = Result<TensorData, ExecutionError>>,
) -> Result<Vec<f32>, PagedError> {
    let failed = |reason: String| PagedError::DeviceFailed { reason };
    let data = read_sync(values).map_err(|error| failed(error.to_string()))?;
    data.try_into_vec()
        .map_err(|error| failed(format!("{error}")))
}
