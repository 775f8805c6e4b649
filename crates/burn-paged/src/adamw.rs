//! [`PagedAdamW`] and [`PagedAdamW8bit`], AdamW with its state in pages.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn_core as burn;
use burn_core::backend::Dispatch;
use burn_core::config::Config;
use burn_core::tensor::{DType, Device, Tensor};
use burn_optim::{LearningRate, Optimizer};
use nf4::adamw::AdamW;

use crate::pool::{Begin, Pool, PoolSettings, Slot};
use crate::state::{Held, PagedState};
use crate::table::Precision;
use crate::{Budget, Moments, PagedError, PagedOps, PagingReport};

/// Bytes of a page unless the configuration says otherwise.
pub const PAGE_BYTES: usize = 2 << 20;

/// Elements from which on [`PagedAdamW8bit`] codes moments unless the configuration says otherwise.
pub const MIN_8BIT_ELEMENTS: usize = 4096;

/// Configuration of [`PagedAdamW`] and [`PagedAdamW8bit`], with torch's defaults.
#[derive(Config, Debug)]
pub struct PagedAdamWConfig {
    /// Decay of the first moment.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// Decay of the second moment.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to the root of the second moment.
    #[config(default = 1e-8)]
    pub epsilon: f64,
    /// Decoupled weight decay.
    #[config(default = 0.01)]
    pub weight_decay: f64,
    /// How much of the state stays resident.
    #[config(default = "Budget::Resident")]
    pub budget: Budget,
    /// Bytes of a page.
    #[config(default = "PAGE_BYTES")]
    pub page_bytes: usize,
    /// Parameters with fewer elements keep f32 moments in [`PagedAdamW8bit`] (bitsandbytes `min_8bit_size`).
    #[config(default = "MIN_8BIT_ELEMENTS")]
    pub min_8bit_elements: usize,
    /// The page file, for devices whose pages are in one (Flex): scratch space that is made when the first
    /// page is streamed and removed with the optimizer. One in the system's folder for temporary files if it is not
    /// given; where that folder is in memory, paging into it saves nothing.
    #[config(default = "None")]
    pub page_file: Option<PathBuf>,
    /// For [`Budget::Auto`]: bytes that everything together may take. On Flex what the system has (Linux' `MemAvailable`,
    /// which knows nothing of a control group's limit) if it is not given; CubeCL devices do not tell, so there
    /// the state stays resident without it.
    #[config(default = "None")]
    pub memory_limit: Option<u64>,
}

impl PagedAdamWConfig {
    /// AdamW with f32 moments, 8 bytes for each element.
    ///
    /// # Errors
    /// [`PagedError::Config`] naming a setting that cannot work.
    pub fn build(&self) -> Result<PagedAdamW, PagedError> {
        Ok(PagedAdamW(self.engine(false)?))
    }

    /// AdamW with 8-bit moments, 2.03 bytes for each element of a parameter of 4096 or more.
    ///
    /// # Errors
    /// [`PagedError::Config`] naming a setting that cannot work.
    pub fn build_8bit(&self) -> Result<PagedAdamW8bit, PagedError> {
        Ok(PagedAdamW8bit(self.engine(true)?))
    }

    fn engine(&self, eight_bit: bool) -> Result<Engine, PagedError> {
        let adamw = AdamW {
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
        };
        validate(&adamw)?;
        self.budget.validate()?;
        if self.page_bytes < 4096 || !self.page_bytes.is_multiple_of(256) {
            return Err(PagedError::Config {
                field: "page size",
                value: self.page_bytes.to_string(),
                expected: "a multiple of 256 bytes, 4096 or more",
            });
        }
        Ok(Engine {
            adamw,
            eight_bit_from: eight_bit.then_some(self.min_8bit_elements),
            pool: Pool::new(PoolSettings {
                budget: self.budget,
                page_bytes: self.page_bytes,
                page_file: self.page_file.clone().unwrap_or_else(temporary_file),
                memory_limit: self.memory_limit,
            }),
        })
    }
}

/// # Errors
/// [`PagedError::Config`] naming the first setting that cannot work.
fn validate(adamw: &AdamW) -> Result<(), PagedError> {
    let refuse = |field, value: f64, expected| {
        Err(PagedError::Config {
            field,
            value: value.to_string(),
            expected,
        })
    };
    for (field, value) in [("beta 1", adamw.beta_1), ("beta 2", adamw.beta_2)] {
        if !(0.0..1.0).contains(&value) {
            return refuse(field, value, "in [0, 1)");
        }
    }
    for (field, value) in [
        ("epsilon", adamw.epsilon),
        ("weight decay", adamw.weight_decay),
    ] {
        if !(value.is_finite() && value >= 0.0) {
            return refuse(field, value, "a finite number, 0 or above");
        }
    }
    Ok(())
}

fn temporary_file() -> PathBuf {
    static USES: AtomicU64 = AtomicU64::new(0);
    let (process, count) = (std::process::id(), USES.fetch_add(1, Ordering::Relaxed));
    std::env::temp_dir().join(format!("burn-paged-{process}-{count}.pages"))
}

/// What both optimizers do.
#[derive(Debug, Clone)]
struct Engine {
    adamw: AdamW,
    /// Elements from which on moments are 8-bit; `None` for never.
    eight_bit_from: Option<usize>,
    pool: Arc<Pool>,
}

impl Engine {
    fn precision(&self, elements: usize) -> Precision {
        match self.eight_bit_from.is_some_and(|from| elements >= from) {
            true => Precision::Dynamic8,
            false => Precision::F32,
        }
    }

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<PagedState<D>>,
    ) -> Result<(Tensor<D>, PagedState<D>), PagedError> {
        self.pool.health()?;
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
        let (steps, slot, begin) = match state {
            None => {
                let (slot, begin) = self.pool.allocate(self.precision(elements), elements);
                (1, Arc::new(slot), begin)
            }
            Some(state) => {
                if state.elements() != elements {
                    return Err(PagedError::Length {
                        expected: elements,
                        actual: state.elements(),
                    });
                }
                let steps = state.steps + 1;
                let (slot, begin) = self.take(&tensor, state.held)?;
                (steps, slot, begin)
            }
        };
        let step = self.adamw.at(steps, lr);
        let updated = <Dispatch as PagedOps>::paged_adamw(
            tensor.without_autodiff().into_dispatch(),
            grad.without_autodiff().into_dispatch(),
            slot.clone(),
            begin,
            step,
        );
        self.pool.health()?;
        Ok((
            Tensor::from_dispatch(updated),
            PagedState {
                steps,
                shape,
                held: Held::paged(slot),
            },
        ))
    }

    /// The slot that a state goes on in: its own, or a copy where another state shares it or it is not in these
    /// pages yet.
    fn take<const D: usize>(
        &self,
        tensor: &Tensor<D>,
        held: Held,
    ) -> Result<(Arc<Slot>, Begin), PagedError> {
        let moments = match held {
            Held::Paged(owner) if Arc::ptr_eq(owner.0.pool(), &self.pool) => {
                return Ok(match Arc::try_unwrap(owner) {
                    Ok(owner) => (owner.0, Begin::Keep),
                    Err(shared) => {
                        let slot = &shared.0;
                        let (copy, _) = self.pool.allocate(slot.precision(), slot.elements());
                        (Arc::new(copy), Begin::CopyOf(slot.clone()))
                    }
                });
            }
            Held::Paged(owner) => {
                sync(&tensor.device())?;
                Arc::new(owner.0.read()?)
            }
            Held::Host(moments) => moments,
        };
        let slot = self.place(tensor, &moments)?;
        Ok((slot, Begin::Keep))
    }

    fn place<const D: usize>(
        &self,
        tensor: &Tensor<D>,
        moments: &Moments,
    ) -> Result<Arc<Slot>, PagedError> {
        moments.check()?;
        let (slot, _) = self.pool.allocate(moments.precision(), moments.elements());
        let slot = Arc::new(slot);
        let like = tensor.clone().without_autodiff().into_dispatch();
        let _ = Tensor::<D>::from_dispatch(<Dispatch as PagedOps>::paged_open(like, slot.clone()));
        sync(&tensor.device())?;
        slot.write(moments)?;
        Ok(slot)
    }

    fn restore<const D: usize>(
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
            held: Held::paged(self.place(param, moments)?),
        })
    }
}

/// Waits until the device has done what was queued, which Fusion puts off.
pub(crate) fn sync(device: &Device) -> Result<(), PagedError> {
    device.sync().map_err(|error| PagedError::DeviceFailed {
        reason: error.to_string(),
    })
}

/// Defines an optimizer type over the engine.
macro_rules! paged_optimizer {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub struct $name(Engine);

        impl $name {
            /// [`step`](Optimizer::step) that says what went wrong.
            ///
            /// # Errors
            /// Anything but F32 of one shape; a page file or a device that fails. After the latter the state
            /// is of no use any more and every call fails with the same error.
            pub fn try_step<const D: usize>(
                &self,
                lr: LearningRate,
                tensor: Tensor<D>,
                grad: Tensor<D>,
                state: Option<PagedState<D>>,
            ) -> Result<(Tensor<D>, PagedState<D>), PagedError> {
                self.0.step(lr, tensor, grad, state)
            }

            /// Ends a step: writes back what is left and counts. Not needed, since an update of a parameter that was
            /// updated already ends the step too, but only then has [`report`](Self::report) the step in it.
            ///
            /// # Errors
            /// A page file or a device that fails.
            pub fn end_step(&self) -> Result<(), PagedError> {
                self.0.pool.end_step()
            }

            /// To be called before a forward pass. With [`Budget::Auto`] pages leave when the memory that all else has taken
            /// at its peak would not fit beside them, and come back when it would. On Linux the process' peak
            /// resident memory is what counts on Flex, the device's memory report elsewhere.
            ///
            /// # Errors
            /// A page file or a device that fails.
            pub fn prepare(&self) -> Result<(), PagedError> {
                self.0.pool.prepare()
            }

            /// Changes the budget between steps; pages that change sides are moved now.
            ///
            /// # Errors
            /// [`PagedError::Config`], a page file or a device that fails.
            pub fn set_budget(&self, budget: Budget) -> Result<(), PagedError> {
                self.0.pool.set_budget(budget)
            }

            /// Sizes now, and what the last complete step moved.
            pub fn report(&self) -> PagingReport {
                self.0.pool.report()
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
                self.0.restore(param, steps, moments)
            }

            /// How the state of a parameter with this many elements is held.
            pub fn precision(&self, elements: usize) -> Precision {
                self.0.precision(elements)
            }
        }

        impl Optimizer for $name {
            type State<const D: usize> = PagedState<D>;

            /// # Panics
            /// Where [`try_step`](Self::try_step) says what went wrong; the trait has no other way.
            fn step<const D: usize>(
                &self,
                lr: LearningRate,
                tensor: Tensor<D>,
                grad: Tensor<D>,
                state: Option<Self::State<D>>,
            ) -> (Tensor<D>, Option<Self::State<D>>) {
                match self.try_step(lr, tensor, grad, state) {
                    Ok((tensor, state)) => (tensor, Some(state)),
                    Err(error) => panic!("{}: {error}", stringify!($name)),
                }
            }

            /// State comes to the device of its parameter page by page, in the step.
            fn to_device<const D: usize>(state: Self::State<D>, _: &Device) -> Self::State<D> {
                state
            }
        }
    };
}

paged_optimizer! {
    /// AdamW (`torch.optim.AdamW`: decoupled decay, epsilon outside the root) with f32 moments in pages.
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
    PagedAdamW
}

paged_optimizer! {
    /// AdamW with 8-bit moments in pages (bitsandbytes `PagedAdamW8bit`): blocks of 256 elements, coded with the dynamic
    /// maps relative to their largest. Small parameters keep f32 moments.
    PagedAdamW8bit
}
