//! Threads that share short kernels: the products of few rows, and the attention of few positions.
//!
//! A model that writes a token calls hundreds of kernels that take some ten microseconds each. rayon's threads fall asleep between
//! two of them, and waking one takes as long. The members of a team stay awake for a moment after each kernel, and take their part
//! of the next within a microsecond.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::cpu::Threads;

/// How long a member waits for the next kernel before it sleeps: longer than what lies between two kernels of a model.
const AWAKE: Duration = Duration::from_micros(200);
/// The most items of a piece: what a kernel works out for all of them at once shall stay in a core's caches.
const LONGEST: u32 = 32;
/// Looks for a next kernel between two at the clock.
const LOOKS: usize = 64;
/// Looks for the end of a kernel before the leader lends its core: more than the last part of a short kernel takes.
const PATIENCE: usize = 4096;

impl Threads {
    /// Calls `run` with every item, on all threads at once. For items that take microseconds.
    pub(crate) fn share<T: Send>(self, items: Vec<T>, run: impl Fn(T) + Sync) {
        let items: Vec<_> = items
            .into_iter()
            .map(|item| Mutex::new(Some(item)))
            .collect();
        self.share_numbers(items.len(), |i| {
            let item = items[i]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            run(item.expect("every number comes once"));
        });
    }

    /// Calls `run` once with every number below `count`, on all threads at once. For what takes microseconds.
    pub(crate) fn share_numbers(self, count: usize, run: impl Fn(usize) + Sync) {
        self.share_pieces(count, Piece::One, |numbers| numbers.for_each(&run));
    }

    /// Calls `run` with ranges of numbers that are, all together, those below `count`, on all threads at once: long ones first, and
    /// in the end ones of a single number. For what takes a microsecond.
    pub(crate) fn share_ranges(self, count: usize, run: impl Fn(Range<usize>) + Sync) {
        self.share_pieces(count, Piece::Half, run);
    }

    fn share_pieces(self, count: usize, piece: Piece, run: impl Fn(Range<usize>) + Sync) {
        let len = piece.of_equal_ones(count, self.count());
        let pieces = count.div_ceil(len);
        let run_piece = |i| run(i * len..count.min((i + 1) * len));
        if pieces < 2 || self.count() == 1 {
            return (0..pieces).for_each(run_piece);
        }
        let team = team();
        match team.lead() {
            Some(_lead) => team.run(count, piece, &run),
            // Another kernel has the team, or this one is part of one.
            None => (0..pieces).into_par_iter().for_each(run_piece),
        }
    }
}

/// How many of the items that are left in a stretch a thread takes at a time.
#[derive(Clone, Copy)]
enum Piece {
    One,
    Half,
}

impl Piece {
    /// Returns how many are taken where some are left.
    fn of(self, left: u32) -> u32 {
        match self {
            Self::One => 1,
            Self::Half => left.div_ceil(2).min(LONGEST),
        }
    }

    /// Returns how many of `count` items are a piece where all are equal.
    fn of_equal_ones(self, count: usize, threads: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Half => count.div_ceil(4 * threads).clamp(1, LONGEST as usize),
        }
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
            let handle = builder.spawn(move || team.serve(number, parked)).ok()?;
            Some(Member {
                thread: handle.thread().clone(),
                parked,
            })
        });
        let members: Vec<_> = members.collect();
        let stretches = (0..=members.len()).map(|_| Stretch::default());
        team.stretches.get_or_init(|| stretches.collect());
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
    /// What is left of the present kernel, a part for each thread, the leader's first.
    stretches: OnceLock<Vec<Stretch>>,
}

/// Consecutive items, the numbers of a [`Range`], of which one thread takes the first and others, when they have no more of their
/// own, the last: so a thread reads on where it was, and none waits for more than a piece.
#[repr(align(64))]
#[derive(Default)]
struct Stretch(AtomicU64);

impl Stretch {
    fn fill(&self, items: Range<u32>) {
        self.0.store(packed(&items), Ordering::Relaxed);
    }

    /// Takes a piece off an end.
    fn take(&self, end: End, piece: Piece) -> Option<Range<u32>> {
        let mut taken = None;
        let left = |items| {
            let Range { start, end: stop } = unpacked(items);
            let len = piece.of(stop.checked_sub(start).filter(|left| *left > 0)?);
            let (piece, left) = match end {
                End::First => (start..start + len, start + len..stop),
                End::Last => (stop - len..stop, start..stop - len),
            };
            taken = Some(piece);
            Some(packed(&left))
        };
        // A piece is taken by whoever changes the range; what it stands for is seen through `Team::work`.
        let changed = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        changed.ok().and(taken)
    }
}

/// An end of a stretch.
#[derive(Clone, Copy)]
enum End {
    First,
    Last,
}

fn packed(items: &Range<u32>) -> u64 {
    u64::from(items.start) << 32 | u64::from(items.end)
}

const fn unpacked(items: u64) -> Range<u32> {
    (items >> 32) as u32..items as u32
}

struct Member {
    thread: Thread,
    parked: &'static AtomicBool,
}

/// A kernel's items, which are numbers to the team.
struct Work<'a> {
    run: &'a (dyn Fn(Range<usize>) + Sync),
    piece: Piece,
    stretches: &'a [Stretch],
    panicked: AtomicBool,
}

impl Work<'_> {
    /// Runs items until none is left, first those of stretch `own`.
    fn take_part(&self, own: usize) {
        let (before, from_own) = self.stretches.split_at(own);
        let Some((own, after)) = from_own.split_first() else {
            return;
        };
        self.run_all(own, End::First);
        for other in after.iter().chain(before) {
            self.run_all(other, End::Last);
        }
    }

    /// Runs the pieces of a stretch that are left, taken off an end.
    fn run_all(&self, stretch: &Stretch, end: End) {
        while let Some(items) = stretch.take(end, self.piece) {
            (self.run)(items.start as usize..items.end as usize);
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

    /// Calls `run` with ranges of all numbers below `count`. The caller holds the lead.
    fn run(&self, count: usize, piece: Piece, run: &(dyn Fn(Range<usize>) + Sync)) {
        let stretches = self.stretches.get().expect("a team has its stretches");
        let threads = stretches.len().min(count);
        let first = |stretch: usize| {
            let item = stretch.min(threads) as u64 * count as u64 / threads as u64;
            u32::try_from(item).expect("no kernel has as many items as a u32 counts")
        };
        for (i, stretch) in stretches.iter().enumerate() {
            stretch.fill(first(i)..first(i + 1));
        }
        let work = Work {
            run,
            piece,
            stretches,
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
        work.take_part(0);
        drop(lent);
        assert!(!work.panicked.into_inner(), "a part of a kernel panicked");
    }

    /// Takes part in every kernel.
    fn serve(&self, number: usize, parked: &AtomicBool) -> ! {
        let mut seen = 0;
        loop {
            seen = self.next_round(seen, parked);
            self.guests.fetch_add(1, Ordering::SeqCst);
            let work = self.work.load(Ordering::SeqCst);
            // SAFETY: the leader lends its work until it has seen, after storing null, that there are no guests. Loads and stores
            // are in one order: if this one came before that null, the leader sees this guest and waits; otherwise it is null.
            if let Some(work) = unsafe { work.as_ref() }
                && catch_unwind(AssertUnwindSafe(|| work.take_part(number))).is_err()
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
    fn what_a_late_thread_would_do_is_done_by_others() {
        let team = team();
        let start = Instant::now();
        let _lead = loop {
            // Other tests have it for moments.
            match team.lead() {
                Some(lead) => break lead,
                None => assert!(start.elapsed().as_secs() < 10, "the lead is not free"),
            }
        };
        let others = team
            .members
            .get()
            .is_some_and(|members| !members.is_empty());
        let (count, ended) = (40usize, AtomicUsize::new(0));
        for piece in [Piece::One, Piece::Half] {
            ended.store(0, Ordering::Relaxed);
            team.run(count, piece, &|items| {
                let of_others = count - items.len();
                while items.start == 0 && others && ended.load(Ordering::Relaxed) < of_others {
                    assert!(start.elapsed().as_secs() < 20, "items are left");
                    std::thread::yield_now();
                }
                ended.fetch_add(items.len(), Ordering::Relaxed);
            });
            assert_eq!(ended.load(Ordering::Relaxed), count);
        }
    }

    #[test]
    fn ranges_are_all_of_the_numbers() {
        for count in (0..200).chain([5000]) {
            let ranges = Mutex::new(Vec::new());
            Threads::All.share_ranges(count, |range| ranges.lock().unwrap().push(range));
            let mut ranges = ranges.into_inner().unwrap();
            assert!(ranges.len() <= 200 + count / 32);
            ranges.sort_by_key(|range| range.start);
            let numbers: Vec<_> = ranges.into_iter().flatten().collect();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>());
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
