//! [`PagedAdamW`], AdamW with its state in pages.

use std::sync::Arc;

use burn_core::backend::Dispatch;
use burn_core::tensor::{DType, Device, Tensor};
use burn_optim::{LearningRate, Optimizer};
use nf4::adamw::AdamW;

use crate::budget::Budget;
use crate::error::PagedError;
use crate::moments::Moments;
use crate::ops::PagedOps;
use crate::pool::Pool;
use crate::report::PagingReport;
use crate::slot::{Slot, SlotInit};
use crate::state::{PagedState, Storage};
use crate::state_dtype::StateDtype;

burn_operands::served_devices! {
    Cube: "cubecl-backend",
    Flex: "flex",
    NdArray: "ndarray",
    LibTorch: "tch",
}

/// AdamW (`torch.optim.AdamW`: decoupled decay, epsilon outside the root) with its moments in pages: in f32, or in 8 bits
/// (bitsandbytes `PagedAdamW8bit`), in blocks of 256 elements coded with the dynamic maps relative to their largest
/// ([`StateDtype`]).
///
/// Clones share their pages; states that are cloned are copied when one of them is updated. One optimizer
/// serves one device.
///
/// ```
/// use burn_core::tensor::{Device, Tensor};
/// use burn_optim::Optimizer;
/// use burn_paged::{Budget, PagedAdamWConfig};
///
/// # fn main() -> Result<(), burn_paged::PagedError> {
/// # #[cfg(feature = "flex")] {
/// let device = Device::flex();
/// let optimizer = PagedAdamWConfig::new().with_budget(Budget::Bytes(0)).build()?;
/// let (mut weight, mut state) = (Tensor::<2>::ones([64, 32], &device), None);
/// for _ in 0..3 {
///     let gradient = weight.clone() * 2.0;
///     (weight, state) = optimizer.step(1e-3, weight, gradient, state);
/// }
/// optimizer.end_step()?;
/// let report = optimizer.report();
/// assert_eq!(report.resident_bytes, 0);
/// assert_eq!(report.bytes_moved(), 2 * report.state_bytes);
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PagedAdamW {
    adamw: AdamW,
    state: StateDtype,
    min_8bit_elements: usize,
    pool: Arc<Pool>,
}

impl PagedAdamW {
    pub(crate) fn new(
        adamw: AdamW,
        state: StateDtype,
        min_8bit_elements: usize,
        pool: Arc<Pool>,
    ) -> Self {
        Self {
            adamw,
            state,
            min_8bit_elements,
            pool,
        }
    }

    /// Takes a [`step`](Optimizer::step), and returns the error of one that fails.
    ///
    /// # Errors
    /// A device that this build has no update for; anything but F32 of one shape; a page file or a device that fails. After the latter the state
    /// is of no use any more and every call fails with the same error.
    pub fn try_step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<PagedState<D>>,
    ) -> Result<(Tensor<D>, PagedState<D>), PagedError> {
        self.pool.health()?;
        check_device(&tensor.device().without_autodiff())?;
        for (what, tensor) in [("parameter", &tensor), ("gradient", &grad)] {
            if tensor.dtype() != DType::F32 {
                return Err(PagedError::Dtype {
                    what,
                    actual: format!("{:?}", tensor.dtype()),
                });
            }
        }
        let shape = tensor.dims();
        let elements = shape.iter().product();
        if grad.dims() != shape {
            return Err(PagedError::Length {
                expected: elements,
                actual: grad.dims().iter().product(),
            });
        }
        let (steps, slot, init) = match state {
            None => {
                let (slot, init) = self.pool.allocate(self.state_dtype(elements), elements);
                (1, Arc::new(slot), init)
            }
            Some(state) => {
                if state.elements() != elements {
                    return Err(PagedError::Length {
                        expected: elements,
                        actual: state.elements(),
                    });
                }
                let steps = state.steps + 1;
                let (slot, init) = self.take(&tensor, state.storage)?;
                (steps, slot, init)
            }
        };
        let step = self.adamw.at(steps, lr);
        let updated = <Dispatch as PagedOps>::paged_adamw(
            tensor.without_autodiff().into_dispatch(),
            grad.without_autodiff().into_dispatch(),
            slot.clone(),
            init,
            step,
        );
        self.pool.health()?;
        Ok((
            Tensor::from_dispatch(updated),
            PagedState {
                steps,
                shape,
                storage: Storage::paged(slot),
            },
        ))
    }

    /// Returns the slot that a state goes on in: its own, or a copy where another state shares it or it is not in these
    /// pages yet.
    fn take<const D: usize>(
        &self,
        tensor: &Tensor<D>,
        storage: Storage,
    ) -> Result<(Arc<Slot>, SlotInit), PagedError> {
        let moments = match storage {
            Storage::Paged(owner) if Arc::ptr_eq(owner.0.pool(), &self.pool) => {
                return Ok(match Arc::try_unwrap(owner) {
                    Ok(owner) => (owner.0, SlotInit::Keep),
                    Err(shared) => {
                        let slot = &shared.0;
                        let (copy, _) = self.pool.allocate(slot.dtype(), slot.elements());
                        (Arc::new(copy), SlotInit::CopyOf(slot.clone()))
                    }
                });
            }
            Storage::Paged(owner) => {
                self.sync(&tensor.device())?;
                Arc::new(owner.0.read()?)
            }
            Storage::Host(moments) => moments,
        };
        let slot = self.place(tensor, &moments)?;
        Ok((slot, SlotInit::Keep))
    }

    /// Puts moments into a slot of their own.
    fn place<const D: usize>(
        &self,
        tensor: &Tensor<D>,
        moments: &Moments,
    ) -> Result<Arc<Slot>, PagedError> {
        check_device(&tensor.device().without_autodiff())?;
        moments.check()?;
        let (slot, _) = self.pool.allocate(moments.dtype(), moments.elements());
        let slot = Arc::new(slot);
        let like = tensor.clone().without_autodiff().into_dispatch();
        let _ = Tensor::<D>::from_dispatch(<Dispatch as PagedOps>::paged_open(like, slot.clone()));
        self.sync(&tensor.device())?;
        slot.write(moments)?;
        Ok(slot)
    }

    /// Puts the moments of `param` after `steps` updates, from a checkpoint say, straight into pages.
    ///
    /// # Errors
    /// [`PagedError::Length`], a page file or a device that fails.
    pub fn restore<const D: usize>(
        &self,
        param: &Tensor<D>,
        steps: usize,
        moments: &Moments,
    ) -> Result<PagedState<D>, PagedError> {
        let shape = param.dims();
        let expected = shape.iter().product();
        if moments.elements() != expected {
            return Err(PagedError::Length {
                expected,
                actual: moments.elements(),
            });
        }
        Ok(PagedState {
            steps,
            shape,
            storage: Storage::paged(self.place(param, moments)?),
        })
    }

    /// Ends a step: writes back what is left and counts. Not needed, since an update of a parameter that was
    /// updated already ends the step too, but only then has [`report`](Self::report) the step in it.
    ///
    /// # Errors
    /// A page file or a device that fails.
    pub fn end_step(&self) -> Result<(), PagedError> {
        self.pool.end_step()
    }

    /// Prepares a forward pass, before which it is called. With [`Budget::Auto`] pages leave when the memory that all
    /// else has taken at its peak would not fit beside them, and come back when it would. On Linux the process' peak
    /// resident memory is what counts on Flex, the device's memory report elsewhere.
    ///
    /// # Errors
    /// A page file or a device that fails.
    pub fn prepare(&self) -> Result<(), PagedError> {
        self.pool.prepare()
    }

    /// Waits until `device` has done the updates that were queued, which Fusion puts off, so that moments may be read.
    ///
    /// # Errors
    /// [`PagedError::DeviceFailed`].
    pub fn sync(&self, device: &Device) -> Result<(), PagedError> {
        device.sync().map_err(|error| PagedError::DeviceFailed {
            reason: error.to_string(),
        })
    }

    /// Changes the budget between steps; pages that change sides are moved now.
    ///
    /// # Errors
    /// [`PagedError::Config`], a page file or a device that fails.
    pub fn set_budget(&self, budget: Budget) -> Result<(), PagedError> {
        self.pool.set_budget(budget)
    }

    /// Returns the sizes now, and what the last complete step moved.
    pub fn report(&self) -> PagingReport {
        self.pool.report()
    }

    /// Returns how the state of a parameter with this many elements is held.
    pub fn state_dtype(&self, elements: usize) -> StateDtype {
        self.state.of_parameter(elements, self.min_8bit_elements)
    }
}

impl Optimizer for PagedAdamW {
    type State<const D: usize> = PagedState<D>;

    /// # Panics
    /// When [`try_step`](Self::try_step) fails, with its message; the trait has no other way.
    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        match self.try_step(lr, tensor, grad, state) {
            Ok((tensor, state)) => (tensor, Some(state)),
            Err(error) => panic!("PagedAdamW: {error}"),
        }
    }

    /// State comes to the device of its parameter page by page, in the step.
    fn to_device<const D: usize>(state: Self::State<D>, _: &Device) -> Self::State<D> {
        state
    }
}
