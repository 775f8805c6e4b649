use super::watch::Watch;
use super::{Connected, Job, MpiError, Values, Wishes, bf16};
use mpi::Threading;
use mpi::collective::{Operation, SystemOperation};
use mpi::datatype::{Buffer, BufferMut};
use mpi::request::scope;
use mpi::traits::{Communicator, CommunicatorCollectives};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How often the other ranks are listened to while there is nothing to do.
const IDLE: Duration = Duration::from_millis(100);
/// The same while a sum is under way, at first and at last.
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// Enters MPI, says so to `connected`, does what comes by the `queue`, and leaves MPI at its end.
pub(super) fn run(
    queue: &Receiver<Job>,
    wishes: &Wishes,
    connected: &Sender<Result<Connected, MpiError>>,
    tell: &dyn Fn(&str),
    exit_code: i32,
) {
    // Nobody to answer to is nobody to work for.
    let answer = |result| {
        let _ = connected.send(result);
    };
    let Some((mut universe, level)) = mpi::initialize_with_threading(Threading::Funneled) else {
        return answer(Err(MpiError::Initialised));
    };
    if level < Threading::Funneled {
        return answer(Err(MpiError::Threads));
    }
    let world = universe.world();
    let [rank, size] = [world.rank(), world.size()].map(|number| number as usize);
    universe.set_buffer_size(Watch::buffer_bytes(size));
    let local_rank = world.split_shared(world.rank()).rank() as usize;
    answer(Ok(Connected {
        rank,
        size,
        local_rank,
    }));
    let mut watch = Watch::new(&world, wishes, tell, exit_code);
    loop {
        let job = match queue.recv_timeout(IDLE) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                watch.look(queue);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => Job::Fail("it ended before the run did".into()),
        };
        match job {
            Job::Sum(values, limit, sums) => {
                let summed = sum(values, limit, &mut watch, queue);
                // A rank that does not wait for its sums any more says why by itself.
                let _ = sums.send(summed);
            }
            Job::Fail(why) => watch.fail(&why, queue),
            Job::End => {
                // Signs of life go on until the slowest rank is here.
                sum(Values::F64(vec![0.0]), None, &mut watch, queue);
                break;
            }
        }
    }
    watch.hear_the_last();
    drop(watch);
    drop(universe);
}

fn sum(
    values: Values,
    limit: Option<Duration>,
    watch: &mut Watch<'_>,
    queue: &Receiver<Job>,
) -> Values {
    watch.enter();
    let plus = SystemOperation::sum();
    match values {
        Values::F64(values) => Values::F64(all_reduce(values, plus, limit, watch, queue)),
        Values::F32(values) => Values::F32(all_reduce(values, plus, limit, watch, queue)),
        Values::Bf16(values) => {
            let plus = bf16::addition();
            Values::Bf16(all_reduce(values, &plus, limit, watch, queue))
        }
    }
}

/// Returns the sums over all ranks. The call does not block, so that a rank that is gone is noticed meanwhile.
fn all_reduce<T>(
    values: Vec<T>,
    plus: impl Operation,
    limit: Option<Duration>,
    watch: &mut Watch<'_>,
    queue: &Receiver<Job>,
) -> Vec<T>
where
    T: Clone + Default,
    [T]: Buffer + BufferMut,
{
    let mut sums = vec![T::default(); values.len()];
    let start = Instant::now();
    let mut pause = SHORTEST_PAUSE;
    let world = watch.world();
    scope(|scope| {
        let mut request = world.immediate_all_reduce_into(scope, &values[..], &mut sums[..], plus);
        while let Err(unfinished) = request.test() {
            request = unfinished;
            watch.look(queue);
            if let Some(limit) = limit.filter(|limit| start.elapsed() > *limit) {
                watch.late(limit);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
    sums
}
