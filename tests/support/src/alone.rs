use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lets one test of a process run at a time while the guard lives: what tests share (Burn's generators of random numbers, a
/// device's memory report, the count of launches) is one for the whole process.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has nothing that the next one could find broken.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
