//! [`PagedState`], what an optimizer keeps for one parameter.

use std::sync::Arc;

use burn_core::tensor::{Device, TensorData};
use burn_optim::{RecordState, StateSink, StateSource};

use crate::error::PagedError;
use crate::moments::Moments;
use crate::slot::Slot;
use crate::state_dtype::StateDtype;

/// The state of one parameter: how often it was updated, and where its moments are.
///
/// As a record it has the names of burn-optim's `AdamWState`, so either optimizer loads what the other saved;
/// 8-bit moments have their scales beside them.
#[derive(Debug, Clone)]
pub struct PagedState<const D: usize> {
    pub(crate) steps: usize,
    pub(crate) shape: [usize; D],
    pub(crate) storage: Storage,
}

/// The storage of moments: pages, or the record they were loaded from.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    /// In pages. Counted apart from the slot, which queued operations hold too: more than one owner
    /// means that states were cloned.
    Paged(Arc<SlotOwner>),
    /// Just loaded from a record.
    Host(Arc<Moments>),
}

/// One of the states that share a slot.
#[derive(Debug)]
pub(crate) struct SlotOwner(pub Arc<Slot>);

impl Storage {
    /// Returns the storage of a slot that no other state shares yet.
    pub fn paged(slot: Arc<Slot>) -> Self {
        Self::Paged(Arc::new(SlotOwner(slot)))
    }
}

impl<const D: usize> PagedState<D> {
    /// Returns the number of updates so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Returns the shape of the parameter.
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns how the moments are held.
    pub fn dtype(&self) -> StateDtype {
        match &self.storage {
            Storage::Paged(owner) => owner.0.dtype(),
            Storage::Host(moments) => moments.dtype(),
        }
    }

    /// Returns a copy of the moments. Between steps, after [`end_step`](crate::PagedAdamW::end_step); with Fusion, after
    /// [`sync`](crate::PagedAdamW::sync).
    ///
    /// # Errors
    /// A page file or a device that fails.
    pub fn moments(&self) -> Result<Moments, PagedError> {
        match &self.storage {
            Storage::Paged(owner) => owner.0.read(),
            Storage::Host(moments) => Ok(Moments::clone(moments)),
        }
    }
}

const MOMENT_1: &str = "momentum.moment_1";
const MOMENT_2: &str = "momentum.moment_2";
const ABSMAX_1: &str = "momentum.absmax_1";
const ABSMAX_2: &str = "momentum.absmax_2";
const TIME: &str = "momentum.time";

impl<const D: usize> RecordState for PagedState<D> {
    /// # Panics
    /// When the pages cannot be read: a record without them would be taken for complete.
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        let moments = self
            .moments()
            .unwrap_or_else(|error| panic!("optimizer state `{prefix}`: {error}"));
        let mut scales = |name: &str, values: Vec<f32>| {
            let shape = [values.len()];
            out.push_tensor(prefix, name, TensorData::new(values, shape));
        };
        let [moment_1, moment_2] = match moments {
            Moments::F32 { moment_1, moment_2 } => {
                [moment_1, moment_2].map(|values| TensorData::new(values, self.shape))
            }
            Moments::Dynamic8 {
                moment_1,
                absmax_1,
                moment_2,
                absmax_2,
            } => {
                scales(ABSMAX_1, absmax_1);
                scales(ABSMAX_2, absmax_2);
                [moment_1, moment_2].map(|codes| TensorData::new(codes, self.shape))
            }
        };
        out.push_tensor(prefix, MOMENT_1, moment_1);
        out.push_tensor(prefix, MOMENT_2, moment_2);
        out.push_scalar(prefix, TIME, self.steps.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, _: &Device) -> Option<Self> {
        let steps = src.take_scalar(prefix, TIME)?.try_into().ok()?;
        let moment_1 = src.take_tensor(prefix, MOMENT_1)?;
        let moment_2 = src.take_tensor(prefix, MOMENT_2)?;
        let shape = moment_1.shape().as_slice().try_into().ok()?;
        let mut scales = |name: &str| src.take_tensor(prefix, name)?.try_into_vec::<f32>().ok();
        let moments = match (scales(ABSMAX_1), scales(ABSMAX_2)) {
            (Some(absmax_1), Some(absmax_2)) => Moments::Dynamic8 {
                moment_1: moment_1.try_into_vec().ok()?,
                absmax_1,
                moment_2: moment_2.try_into_vec().ok()?,
                absmax_2,
            },
            _ => Moments::F32 {
                moment_1: moment_1.try_into_vec().ok()?,
                moment_2: moment_2.try_into_vec().ok()?,
            },
        };
        moments.check().ok()?;
        Some(Self {
            steps,
            shape,
            storage: Storage::Host(Arc::new(moments)),
        })
    }
}
