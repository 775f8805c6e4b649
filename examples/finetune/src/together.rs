//! The processes that train a run together.

use anyhow::Result;
#[cfg(feature = "mpi")]
use anyhow::ensure;
use burn_finetune::Ranks;
#[cfg(feature = "mpi")]
use burn_finetune::{Link, Mpi};
#[cfg(feature = "mpi")]
use std::sync::Arc;

use crate::flags::TrainFlags;
#[cfg(feature = "mpi")]
use crate::{
    EXIT_CODE,
    console::{self, tell_last},
    flags::DeviceIndex,
    report,
};

/// This process among those that `mpirun` started; one that was started by itself is alone.
#[derive(Debug, Default)]
pub struct Together {
    #[cfg(feature = "mpi")]
    mpi: Option<Arc<Mpi>>,
}

#[cfg(not(feature = "mpi"))]
impl Together {
    /// Returns this process alone.
    pub fn join(_: &mut TrainFlags) -> Result<(Self, Ranks)> {
        Ok((Self::default(), Ranks::single()))
    }

    /// Returns the outcome of the run.
    pub fn end(self, outcome: Result<()>) -> Result<()> {
        outcome
    }
}

#[cfg(feature = "mpi")]
impl Together {
    /// Joins the processes that were started together, and gives this one its device. All but the first print nothing from now
    /// on.
    ///
    /// # Errors
    /// MPI that cannot be used, and a device that is named twice.
    pub fn join(flags: &mut TrainFlags) -> Result<(Self, Ranks)> {
        let tell = |why: &str| tell_last(format_args!("error: {}", report::words(why)));
        let mpi = Mpi::join(tell, i32::from(EXIT_CODE))?;
        if mpi.as_ref().is_some_and(|mpi| mpi.rank() > 0) {
            console::mute();
        }
        let together = Self { mpi };
        let placed = together.place(flags);
        if let Err(error) = placed {
            return Err(together.failed(error));
        }
        let ranks = match &together.mpi {
            Some(mpi) => Ranks::linked(mpi.clone()),
            None => Ranks::single(),
        };
        let ranks = ranks.with_gradients_in(flags.ranks.allreduce_dtype);
        Ok((together, ranks))
    }

    /// Gives this process the device that is its own among those of its machine.
    fn place(&self, flags: &mut TrainFlags) -> Result<()> {
        let Some(index) = flags.ranks.device_index else {
            return Ok(());
        };
        let device = flags.model.device;
        ensure!(
            device.index() == 0,
            "--device {device} names the device, and so does --device-index; leave one of them out"
        );
        flags.model.device = match index {
            DeviceIndex::Number(index) => device.with_index(index),
            DeviceIndex::Auto => {
                let local_rank = self.mpi.as_ref().map_or(0, |mpi| mpi.local_rank());
                device.with_index(local_rank % device.count().max(1))
            }
        };
        Ok(())
    }

    /// Leaves the others, when all are done, and returns the outcome of the run. An error ends the run on all ranks, and this
    /// process with them.
    pub fn end(self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Ok(()) => {
                if let Some(mpi) = &self.mpi {
                    mpi.end();
                }
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Ends the run on all ranks where there are others; returns the error where there are none.
    fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.mpi {
            Some(mpi) if mpi.size() > 1 => mpi.fail(&report::one_line(&error)),
            Some(mpi) => mpi.end(),
            None => {}
        }
        error
    }
}
