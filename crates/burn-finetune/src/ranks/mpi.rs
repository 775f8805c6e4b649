//! Ranks that MPI joins, each a process that `mpirun` started.
//!
//! A thread of its own makes all calls of MPI (level "funneled" of the standard), so that it answers the other ranks while this one
//! computes. What it is given are sums, as jobs of a queue.

/// Sums of numbers in bf16.
mod bf16;
/// The thread.
mod thread;
/// Signs of life.
mod watch;

use super::{GradientDtype, Link};
use crate::error::FinetuneError;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What `mpirun` and its like put into the environment of a process that they start: of Open MPI, of PMIx (Slurm's `srun`), and
/// of PMI (MPICH, Intel MPI).
const STARTED_BY: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"];

/// MPI could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MpiError {
    /// This thread or another has initialised MPI already.
    #[error("MPI is initialised already, which it can be once in a process")]
    Initialised,
    /// The library cannot be used by a program with several threads.
    #[error(
        "this MPI library serves programs of one thread alone; use one that was built with threads"
    )]
    Threads,
    /// The thread that makes MPI's calls could not be started.
    #[error("the thread for MPI does not start: {0}")]
    Start(std::io::Error),
}

/// One of the processes that `mpirun` started, joined to the others.
///
/// Whoever has it says [`end`](Self::end) when all went well, and [`fail`](Self::fail) with what did not; dropped without either, as
/// by a panic, it ends the run on all ranks.
#[derive(Debug)]
pub struct Mpi {
    rank: usize,
    size: usize,
    local_rank: usize,
    jobs: Mutex<Sender<Job>>,
    wishes: Arc<Wishes>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is to do.
enum Job {
    /// Add up, and give the sums back.
    Sum(Values, Option<Duration>, Sender<Values>),
    /// Wait until all ranks are done, and leave MPI.
    End,
    /// End the run on all ranks, saying why.
    Fail(String),
}

/// The numbers of a sum.
enum Values {
    F64(Vec<f64>),
    F32(Vec<f32>),
    /// In bf16.
    Bf16(Vec<u16>),
}

/// Requests to stop.
#[derive(Debug, Default)]
struct Wishes {
    own: AtomicBool,
    anyone: AtomicBool,
}

/// What the thread is given.
struct Connected {
    rank: usize,
    size: usize,
    local_rank: usize,
}

impl Mpi {
    /// Joins the processes that were started together; `None` where this one was started by itself, without `mpirun`. `tell`
    /// prints the line that says why a run ended, on one rank; `exit_code` is that of all processes then.
    ///
    /// # Errors
    /// [`MpiError`].
    pub fn join(
        tell: impl Fn(&str) + Send + 'static,
        exit_code: i32,
    ) -> Result<Option<Arc<Self>>, MpiError> {
        if STARTED_BY
            .iter()
            .all(|name| std::env::var_os(name).is_none())
        {
            return Ok(None);
        }
        let (jobs, queue) = channel();
        let (connected, answer) = channel();
        let wishes = Arc::<Wishes>::default();
        let of_thread = wishes.clone();
        let thread = std::thread::Builder::new()
            .name("mpi".to_owned())
            .spawn(move || thread::run(&queue, &of_thread, &connected, &tell, exit_code))
            .map_err(MpiError::Start)?;
        let Connected {
            rank,
            size,
            local_rank,
        } = answer.recv().unwrap_or(Err(MpiError::Initialised))?;
        Ok(Some(Arc::new(Self {
            rank,
            size,
            local_rank,
            jobs: Mutex::new(jobs),
            wishes,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Returns the number of this rank among those on its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Waits until all ranks are done, and leaves MPI.
    pub fn end(&self) {
        self.leave(Job::End);
    }

    /// Ends the run on all ranks. `why` is printed by one of them alone, with the rank's number before it where that is not the
    /// first one. The process ends here, with the exit code that [`join`](Self::join) was given.
    pub fn fail(&self, why: &str) {
        self.leave(Job::Fail(why.to_owned()));
    }

    fn leave(&self, job: Job) {
        let Some(thread) = self.thread().take() else {
            return;
        };
        self.send(job);
        // What went wrong there has been printed.
        let _ = thread.join();
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, job: Job) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a receiver the thread is gone, which the answer that does not come tells.
        let _ = jobs.send(job);
    }

    fn summed(&self, values: Values, limit: Option<Duration>) -> Result<Values, FinetuneError> {
        let (sender, answer) = channel();
        self.send(Job::Sum(values, limit, sender));
        let gone = |_| FinetuneError::Ranks("the thread for MPI has ended".to_owned());
        answer.recv().map_err(gone)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        self.fail("it ended before the run did");
    }
}

impl Link for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f64], limit: Option<Duration>) -> Result<(), FinetuneError> {
        if let Values::F64(sums) = self.summed(Values::F64(values.to_vec()), limit)? {
            values.copy_from_slice(&sums);
        }
        Ok(())
    }

    fn sum_gradients(
        &self,
        values: &mut Vec<f32>,
        dtype: GradientDtype,
        limit: Option<Duration>,
    ) -> Result<(), FinetuneError> {
        let given = match dtype {
            GradientDtype::F32 => Values::F32(std::mem::take(values)),
            GradientDtype::Bf16 => Values::Bf16(bf16::rounded(values)),
        };
        match self.summed(given, limit)? {
            Values::F32(sums) => *values = sums,
            Values::Bf16(sums) => bf16::widen(&sums, values),
            Values::F64(_) => {}
        }
        Ok(())
    }

    fn wish_to_stop(&self) {
        self.wishes.own.store(true, Ordering::Relaxed);
        self.wishes.anyone.store(true, Ordering::Relaxed);
    }

    fn is_stop_wished(&self) -> bool {
        self.wishes.anyone.load(Ordering::Relaxed)
    }
}
