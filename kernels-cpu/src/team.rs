//! Threads that share short kernels: the products of few rows, and the attention of few positions.
//!
//! A model that writes a token calls hundreds of kernels that take some ten microseconds each. rayon's threads fall asleep between
//! two of them, and waking one takes as long. The members of a team stay awake for a moment after each kernel, and take their part
//! of the next within a microsecond.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::cpu::Threads;

/// How long a member waits for the next kernel before it sleeps: longer than what lies between two kernels of a model.
const AWAKE: Duration = Duration::from_micros(200);
/// Looks for a next kernel between two at the clock.
const LOOKS: usize = 64;
/// Looks for the end of a kernel before the leader lends its core: more than the last part of a short kernel takes.
const PATIENCE: usize = 4096;

impl Threads {
    /// Calls `run` with every item, on all threads at once. For items that take microseconds.
    pub(crate) fn share<T: Send>(self, items: Vec<T>, run: impl Fn(T) + Sync) {
        if items.len() < 2 || self.count() == 1 {
            return items.into_iter().for_each(run);
        }
        let team = team();
        let Some(_lead) = team.lead() else {
            // Another kernel has the team, or this one is part of one.
            return items.into_par_iter().for_each(&run);
        };
        let items: Vec<_> = items
            .into_iter()
            .map(|item| Mutex::new(Some(item)))
            .collect();
        team.run(items.len(), &|i| {
            let item = items[i]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            run(item.expect("every number comes once"));
        });
    }
}

/// Returns the team of the process, of one member less than rayon has threads: whoever calls it is the last.
fn team() -> &'static Team {
    static TEAM: OnceLock<&Team> = OnceLock::new();
    TEAM.get_or_init(|| {
        let team: &Team = Box::leak(Box::default());
        let members = (1..rayon::current_num_threads()).map_while(|number| {
            let parked: &AtomicBool = Box::leak(Box::default());
            let builder = std::thread::Builder::new().name(format!("qlora-cpu {number}"));
            let handle = builder.spawn(|| team.serve(parked)).ok()?;
            Some(Member {
                thread: handle.thread().clone(),
                parked,
            })
        });
        let members = members.collect();
        team.members.get_or_init(|| members);
        team
    })
}

#[derive(Default)]
struct Team {
    /// Held by the thread whose kernel the team works at.
    lead: Mutex<()>,
    members: OnceLock<Vec<Member>>,
    /// Kernels so far.
    rounds: AtomicUsize,
    /// That of the present kernel, or null. Lives on the leader's stack.
    work: AtomicPtr<Work<'static>>,
    /// Members that may hold a reference to the work.
    guests: AtomicUsize,
}

struct Member {
    thread: Thread,
    parked: &'static AtomicBool,
}

/// A kernel's items, which are numbers to the team.
struct Work<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    count: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Work<'_> {
    fn take_part(&self) {
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= self.count {
                return;
            }
            (self.run)(item);
        }
    }
}

/// Takes the work back from the team when it is dropped, and waits until no member has it.
struct Lent<'a>(&'a Team);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let team = self.0;
        team.work.store(std::ptr::null_mut(), Ordering::SeqCst);
        let mut looks = 0;
        while team.guests.load(Ordering::SeqCst) > 0 {
            looks += 1;
            if looks % PATIENCE == 0 {
                // The member may wait for this thread's core.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

impl Team {
    /// Takes the lead, if nobody has it. A kernel that panicked leaves nothing behind.
    fn lead(&self) -> Option<MutexGuard<'_, ()>> {
        match self.lead.try_lock() {
            Ok(lead) => Some(lead),
            Err(TryLockError::Poisoned(lead)) => Some(lead.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Calls `run` with every number below `count`. The caller holds the lead.
    fn run(&self, count: usize, run: &(dyn Fn(usize) + Sync)) {
        let work = Work {
            run,
            count,
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        };
        let lent = Lent(self);
        let shared = (&raw const work).cast::<Work<'static>>();
        self.work.store(shared.cast_mut(), Ordering::SeqCst);
        self.rounds.fetch_add(1, Ordering::SeqCst);
        let members = self.members.get().into_iter().flatten();
        for member in members.take(count - 1) {
            if member.parked.swap(false, Ordering::SeqCst) {
                member.thread.unpark();
            }
        }
        work.take_part();
        drop(lent);
        assert!(!work.panicked.into_inner(), "a part of a kernel panicked");
    }

    /// Takes part in every kernel.
    fn serve(&self, parked: &AtomicBool) -> ! {
        let mut seen = 0;
        loop {
            seen = self.next_round(seen, parked);
            self.guests.fetch_add(1, Ordering::SeqCst);
            let work = self.work.load(Ordering::SeqCst);
            // SAFETY: the leader lends its work until it has seen, after storing null, that there are no guests. Loads and stores
            // are in one order: if this one came before that null, the leader sees this guest and waits; otherwise it is null.
            if let Some(work) = unsafe { work.as_ref() }
                && catch_unwind(AssertUnwindSafe(|| work.take_part())).is_err()
            {
                work.panicked.store(true, Ordering::Relaxed);
            }
            self.guests.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Waits until there were other rounds than `seen`, and returns how many: awake for a moment, then asleep.
    fn next_round(&self, seen: usize, parked: &AtomicBool) -> usize {
        let start = Instant::now();
        for look in 1.. {
            let rounds = self.rounds.load(Ordering::SeqCst);
            if rounds != seen {
                return rounds;
            }
            std::hint::spin_loop();
            if look % LOOKS == 0 && start.elapsed() > AWAKE {
                parked.store(true, Ordering::SeqCst);
                // A leader that did not see the flag has raised the number before.
                while parked.load(Ordering::SeqCst) && self.rounds.load(Ordering::SeqCst) == seen {
                    std::thread::park();
                }
                parked.store(false, Ordering::SeqCst);
            }
        }
        unreachable!("the numbers of looks do not end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares items among all threads and returns how often each came.
    fn shared(count: usize) -> Vec<usize> {
        let came: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        Threads::All.share((0..count).collect(), |i| {
            came[i].fetch_add(1, Ordering::Relaxed);
        });
        came.into_iter().map(AtomicUsize::into_inner).collect()
    }

    /// Also where several threads share at once, and after the members fell asleep.
    #[test]
    fn every_item_comes_once() {
        for round in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        for count in (0..200).chain([1000; 200]) {
                            assert_eq!(shared(count), vec![1; count]);
                        }
                    });
                }
            });
            std::thread::sleep(round * 2 * AWAKE);
        }
    }

    #[test]
    fn a_part_may_share_again() {
        let total = AtomicUsize::new(0);
        Threads::All.share(vec![100, 200, 300], |count| {
            total.fetch_add(shared(count).len(), Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 600);
    }

    #[test]
    fn a_panic_of_a_part_is_one_of_the_whole() {
        let ended = AtomicUsize::new(0);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            Threads::All.share((0..8).collect(), |i| {
                std::thread::sleep(Duration::from_millis(1));
                assert_ne!(i, 3);
                ended.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert!(panicked.is_err());
        assert!(ended.load(Ordering::Relaxed) < 8);
        assert_eq!(shared(50), [1; 50]);
        // Other tests have the lead for moments.
        let start = Instant::now();
        while team().lead().is_none() {
            assert!(start.elapsed().as_secs() < 10, "nobody leads any more");
        }
    }
}
