//! One AdamW update of a parameter on the host.

use nf4::adamw::AdamWStep;
use qlora_cpu::adamw::{update_dynamic8, update_f32};

use super::pages::HostPages;
use crate::error::PagedError;
use crate::pool::PoolConfig;
use crate::slot::{Slot, SlotInit};
use crate::state_dtype::StateDtype;

/// Updates `param` and the moments in `slot`, whose pages serve `device`, by `grad`, which is as long.
///
/// # Errors
/// A page file that fails, which is kept in the slot's pool; the parameter may be half updated then.
pub(crate) fn adamw(
    device: &str,
    param: &mut [f32],
    grad: &[f32],
    slot: &Slot,
    init: &SlotInit,
    step: AdamWStep,
) -> Result<(), PagedError> {
    let open = |config: &PoolConfig| HostPages::open(config, device);
    slot.pool()
        .update(slot, init, device, open, |store, segment, pages| {
            let moments = &mut store.load(segment.page, pages)?[segment.bytes()];
            let (param, grad) = (&mut param[segment.elements()], &grad[segment.elements()]);
            match slot.dtype() {
                StateDtype::F32 => {
                    let values: &mut [f32] = bytemuck::cast_slice_mut(moments);
                    let (m, v) = values.split_at_mut(values.len() / 2);
                    let elements = param.len();
                    update_f32(param, grad, &mut m[..elements], &mut v[..elements], step);
                }
                StateDtype::Dynamic8 => update_dynamic8(param, grad, moments, step),
            }
            Ok(())
        })
}
