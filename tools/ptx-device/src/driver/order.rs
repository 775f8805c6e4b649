//! What streams and events put in order, and memory that is used without.
//!
//! Each stream has a clock: how far it has come, and how far it knows of the others. An event keeps a stream's clock as it was when
//! it was recorded; a stream that waits for it, or the host that does, knows from then on what the clock knew. Two operations
//! that touch the same memory, one of them writing, must not be strangers to each other, in whatever order they were carried
//! out here.
//!
//! One thing is let go. Memory that a program takes back into a pool, after it has waited for whoever used it, is written next by
//! another stream, and only the program knows that the wait was for that. CubeCL waits so, in a thread of its own, on a stream
//! that does nothing else. What was waited for on such a stream excuses a write, and no read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// The bytes that are kept apart: what CubeCL aligns memory to, so that no two buffers share them.
pub const GRANULE: u64 = 512;

/// A stream's or an event's handle.
pub type Handle = usize;

/// How far each stream is known to have come.
#[derive(Debug, Default, Clone)]
struct Clock(BTreeMap<Handle, u64>);

impl Clock {
    fn join(&mut self, other: &Self) {
        for (stream, at) in &other.0 {
            let known = self.0.entry(*stream).or_default();
            *known = (*known).max(*at);
        }
    }

    fn knows(&self, used: &Use) -> bool {
        let known = self.0.get(&used.stream);
        known.is_some_and(|known| used.at <= *known)
    }
}

/// An operation that has touched memory.
#[derive(Debug, Clone, Copy)]
struct Use {
    stream: Handle,
    at: u64,
    /// Its name among [`Order::names`].
    name: usize,
}

/// The last uses of a granule.
#[derive(Debug, Default, Clone)]
struct Cell {
    written: Option<Use>,
    /// Since then, the last of each stream.
    read: Vec<Use>,
}

/// What an operation does to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes, or does both.
    Write,
}

/// Two operations on the same memory that nothing puts in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unordered {
    address: u64,
    now: (String, Handle, Access),
    before: (String, Handle, Access),
}

impl fmt::Display for Unordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = |access| match access {
            Access::Read => "reads",
            Access::Write => "writes",
        };
        let (now, stream, access) = &self.now;
        let (before, other, did) = &self.before;
        write!(
            f,
            "{now} on stream {stream} {} {:#x}, which {before} on stream {other} {}, with no event between",
            does(*access),
            self.address,
            does(*did)
        )
    }
}

/// An operation that was put into a stream.
#[derive(Debug, Clone, Copy)]
pub struct Queued(Use);

/// The order of everything that streams were given.
#[derive(Debug, Default)]
pub struct Order {
    streams: HashMap<Handle, Clock>,
    /// Streams that were given work, not only events.
    working: HashSet<Handle>,
    /// The clock of each event, and the stream it was recorded on.
    events: HashMap<Handle, (Handle, Clock)>,
    host: Clock,
    /// What the host has waited for on streams that do nothing else.
    released: Clock,
    cells: HashMap<u64, Cell>,
    names: Vec<String>,
    numbers: HashMap<String, usize>,
    waits_are_missed: bool,
}

impl Order {
    /// Returns the order of nothing. Streams' waits can be missed, to see that one that is missing is found.
    pub fn new(waits_are_missed: bool) -> Self {
        Self {
            waits_are_missed,
            ..Self::default()
        }
    }

    /// Puts an operation of that name into a stream.
    pub fn queue(&mut self, stream: Handle, name: &str) -> Queued {
        self.working.insert(stream);
        let clock = self.streams.entry(stream).or_default();
        clock.join(&self.host);
        let at = clock.0.entry(stream).or_default();
        *at += 1;
        let at = *at;
        let name = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                self.names.push(name.to_owned());
                self.numbers.insert(name.to_owned(), self.names.len() - 1);
                self.names.len() - 1
            }
        };
        Queued(Use { stream, at, name })
    }

    /// Lets an operation touch memory.
    ///
    /// # Errors
    /// An earlier use that the operation is not ordered after.
    pub fn touch(
        &mut self,
        queued: Queued,
        begin: u64,
        bytes: u64,
        access: Access,
    ) -> Result<(), Unordered> {
        let Queued(now) = queued;
        let clock = &self.streams[&now.stream];
        for granule in begin / GRANULE..(begin + bytes).div_ceil(GRANULE) {
            let cell = self.cells.entry(granule).or_default();
            let stranger = |before: &&Use| {
                let released = access == Access::Write && self.released.knows(before);
                !clock.knows(before) && !released
            };
            let mut found = cell
                .written
                .as_ref()
                .filter(stranger)
                .map(|it| (*it, Access::Write));
            if access == Access::Write {
                let reader = cell.read.iter().find(stranger);
                found = found.or(reader.map(|it| (*it, Access::Read)));
            }
            if let Some((before, did)) = found {
                return Err(Unordered {
                    address: granule * GRANULE,
                    now: (self.names[now.name].clone(), now.stream, access),
                    before: (self.names[before.name].clone(), before.stream, did),
                });
            }
            match access {
                Access::Read => {
                    cell.read.retain(|it| it.stream != now.stream);
                    cell.read.push(now);
                }
                Access::Write => {
                    cell.read.clear();
                    cell.written = Some(now);
                }
            }
        }
        Ok(())
    }

    /// Forgets the uses of memory that was freed.
    pub fn forget(&mut self, begin: u64, bytes: u64) {
        for granule in begin / GRANULE..(begin + bytes).div_ceil(GRANULE) {
            self.cells.remove(&granule);
        }
    }

    /// Records an event on a stream.
    pub fn record(&mut self, event: Handle, stream: Handle) {
        let clock = self.streams.entry(stream).or_default();
        clock.join(&self.host);
        self.events.insert(event, (stream, clock.clone()));
    }

    /// Lets a stream wait for an event. One that was never recorded is over, as for a driver.
    pub fn wait(&mut self, stream: Handle, event: Handle) {
        if self.waits_are_missed {
            return;
        }
        if let Some((_, clock)) = self.events.get(&event) {
            self.streams.entry(stream).or_default().join(clock);
        }
    }

    /// Lets the host wait for an event.
    pub fn host_waits_for(&mut self, event: Handle) {
        if let Some((stream, clock)) = self.events.get(&event) {
            if self.working.contains(stream) {
                self.host.join(clock);
            } else {
                self.released.join(clock);
            }
        }
    }

    /// Lets the host wait for a stream.
    pub fn host_waits(&mut self, stream: Handle) {
        if let Some(clock) = self.streams.get(&stream) {
            self.host.join(clock);
        }
    }

    /// Lets the host wait for all streams.
    pub fn host_waits_for_all(&mut self) {
        for clock in self.streams.values() {
            self.host.join(clock);
        }
    }

    /// Forgets an event.
    pub fn destroy_event(&mut self, event: Handle) {
        self.events.remove(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Access::{Read, Write};

    const COPIES: Handle = 16;
    const KERNELS: Handle = 32;
    const RELEASES: Handle = 48;
    const EVENT: Handle = 64;
    const PAGE: u64 = 0x10000;

    impl Order {
        fn uses(&mut self, stream: Handle, access: Access) -> Result<(), String> {
            let name = if stream == COPIES {
                "a copy"
            } else {
                "a kernel"
            };
            let queued = self.queue(stream, name);
            self.touch(queued, PAGE, 4096, access)
                .map_err(|error| error.to_string())
        }
    }

    #[test]
    fn a_read_of_what_another_stream_wrote_needs_an_event() {
        let mut order = Order::default();
        order.uses(COPIES, Write).unwrap();
        assert_eq!(
            order.uses(KERNELS, Read).unwrap_err(),
            "a kernel on stream 32 reads 0x10000, which a copy on stream 16 writes, with no event between"
        );
        order.record(EVENT, COPIES);
        order.wait(KERNELS, EVENT);
        assert_eq!(order.uses(KERNELS, Read), Ok(()));
    }

    #[test]
    fn an_event_tells_what_was_there_when_it_was_recorded() {
        let mut order = Order::default();
        order.record(EVENT, COPIES);
        order.uses(COPIES, Write).unwrap();
        order.wait(KERNELS, EVENT);
        assert!(order.uses(KERNELS, Write).is_err());
    }

    #[test]
    fn a_write_must_come_after_the_reads_of_others() {
        let mut order = Order::default();
        order.uses(KERNELS, Read).unwrap();
        assert_eq!(order.uses(COPIES, Read), Ok(()));
        assert!(order.uses(COPIES, Write).is_err());
        order.record(EVENT, KERNELS);
        order.wait(COPIES, EVENT);
        assert_eq!(order.uses(COPIES, Write), Ok(()));
    }

    #[test]
    fn order_is_handed_on() {
        let mut order = Order::default();
        order.uses(COPIES, Write).unwrap();
        order.record(EVENT, COPIES);
        order.wait(RELEASES, EVENT);
        order.record(EVENT + 16, RELEASES);
        order.wait(KERNELS, EVENT + 16);
        assert_eq!(order.uses(KERNELS, Read), Ok(()));
    }

    #[test]
    fn what_the_host_has_waited_for_is_known_to_all() {
        for stream in [true, false] {
            let mut order = Order::default();
            order.uses(COPIES, Write).unwrap();
            if stream {
                order.host_waits(COPIES);
            } else {
                order.record(EVENT, COPIES);
                order.host_waits_for(EVENT);
            }
            assert_eq!(order.uses(KERNELS, Read), Ok(()));
        }
    }

    #[test]
    fn released_memory_may_be_written_and_not_read() {
        let mut order = Order::default();
        order.uses(COPIES, Write).unwrap();
        order.record(EVENT, COPIES);
        order.wait(RELEASES, EVENT);
        order.record(EVENT + 16, RELEASES);
        order.host_waits_for(EVENT + 16);
        assert!(order.uses(KERNELS, Read).is_err());
        assert_eq!(order.uses(KERNELS, Write), Ok(()));
    }

    #[test]
    fn freed_memory_is_new() {
        let mut order = Order::default();
        order.uses(COPIES, Write).unwrap();
        order.forget(PAGE, 4096);
        assert_eq!(order.uses(KERNELS, Read), Ok(()));
    }

    #[test]
    fn waits_that_are_missed_order_nothing() {
        let mut order = Order::new(true);
        order.uses(COPIES, Write).unwrap();
        order.record(EVENT, COPIES);
        order.wait(KERNELS, EVENT);
        assert!(order.uses(KERNELS, Read).is_err());
    }
}
