use super::{Job, Wishes};
use mpi::point_to_point::MatchedReceiveVec;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Source};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// How often a rank gives a sign of life: the first one to all others, these to the first.
const BEAT: Duration = Duration::from_secs(1);
/// How long a rank may be silent.
const SILENCE: Duration = Duration::from_secs(20);
/// How long the first rank is waited for, which tells of another's failure and ends all ranks.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the first rank waits, when another tells of a failure, for its own, which is the same often.
const OWN_FAILURE: Duration = Duration::from_millis(300);
/// The tags of signs of life, and of failures.
const ALIVE: i32 = 1;
const FAILED: i32 = 2;
/// Bytes of a failure's text, at most.
const TEXT: usize = 4096;

/// Listens to the other ranks, and ends the run on all of them when one fails or falls silent.
pub(super) struct Watch<'a> {
    world: &'a SimpleCommunicator,
    wishes: &'a Wishes,
    tell: &'a dyn Fn(&str),
    exit_code: i32,
    rank: usize,
    peers: Vec<Peer>,
    /// Sums that this rank has entered.
    entered: u64,
    last_look: Instant,
    last_beat: Option<Instant>,
}

/// A rank that this one listens to.
struct Peer {
    rank: usize,
    /// For how long it has not been heard.
    silent: Duration,
    /// Sums that it has entered.
    entered: u64,
}

impl<'a> Watch<'a> {
    pub fn new(
        world: &'a SimpleCommunicator,
        wishes: &'a Wishes,
        tell: &'a dyn Fn(&str),
        exit_code: i32,
    ) -> Self {
        let [rank, size] = [world.rank(), world.size()].map(|number| number as usize);
        let peers = if rank == 0 { 1..size } else { 0..1 };
        let peers = peers.map(|rank| Peer {
            rank,
            silent: Duration::ZERO,
            entered: 0,
        });
        Self {
            world,
            wishes,
            tell,
            exit_code,
            rank,
            peers: peers.collect(),
            entered: 0,
            last_look: Instant::now(),
            last_beat: None,
        }
    }

    /// Returns the bytes of a buffer for all that is sent to ranks that do not listen, until they have been silent for too long.
    pub fn buffer_bytes(ranks: usize) -> usize {
        /// More than a sign of life takes with what MPI adds to it (`MPI_BSEND_OVERHEAD`).
        const SIGN: usize = 512;
        4 * TEXT + 2 * SILENCE.as_secs() as usize * SIGN * ranks
    }

    pub fn world(&self) -> &'a SimpleCommunicator {
        self.world
    }

    /// Notes that this rank enters a sum.
    pub fn enter(&mut self) {
        self.entered += 1;
    }

    /// Hears the others, gives a sign of life, and ends the run if one has failed or been silent for too long.
    pub fn look(&mut self, queue: &Receiver<Job>) {
        let now = Instant::now();
        // A process that was itself stopped for a while has not listened meanwhile.
        let passed = (now - self.last_look).min(BEAT);
        self.last_look = now;
        for peer in &mut self.peers {
            peer.silent += passed;
        }
        self.hear();
        self.hear_failures(queue);
        if self
            .last_beat
            .is_none_or(|last| now.duration_since(last) >= BEAT)
        {
            self.last_beat = Some(now);
            self.give_sign();
        }
        // One rank after the other, so that one line is printed.
        let more = Duration::from_secs(self.rank.min(8) as u64);
        if let Some(silent) = self.peers.iter().find(|peer| peer.silent > SILENCE + more) {
            let why = format!(
                "rank {} has given no sign of life for {} s: it is stopped, dead or out of reach; go on from the last checkpoint",
                silent.rank,
                silent.silent.as_secs()
            );
            self.end(&why);
        }
    }

    /// Ends the run for a sum that others have not entered within `limit`.
    pub fn late(&self, limit: Duration) -> ! {
        // The first rank knows who.
        if self.rank > 0 {
            std::thread::sleep(Duration::from_secs(self.rank.min(8) as u64));
        }
        let behind = self.peers.iter().filter(|peer| peer.entered < self.entered);
        let behind: Vec<String> = behind.map(|peer| peer.rank.to_string()).collect();
        let who = match behind.as_slice() {
            [] => "another rank".to_owned(),
            ranks => format!("rank {}", ranks.join(", ")),
        };
        self.end(&format!(
            "{who} has not finished its part of a step within {} s, far longer than any before; go on from the last checkpoint",
            limit.as_secs()
        ))
    }

    /// Ends the run because of this rank: the first one tells why.
    pub fn fail(&mut self, why: &str, queue: &Receiver<Job>) -> ! {
        if self.rank > 0 {
            let text: String = why.chars().take(TEXT / 4).collect();
            let first = self.world.process_at_rank(0);
            first.buffered_send_with_tag(text.as_bytes(), FAILED);
            let start = Instant::now();
            while start.elapsed() < PATIENCE {
                self.look(queue);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.end(&self.named(self.rank, why))
    }

    /// Hears what was still on its way when all ranks were done.
    pub fn hear_the_last(&mut self) {
        use mpi::traits::CommunicatorCollectives;
        // After it, no rank sends any more.
        self.world.barrier();
        self.hear();
    }

    fn hear(&mut self) {
        let anyone = self.world.any_process();
        while let Some(message) = anyone.immediate_matched_probe_with_tag(ALIVE) {
            let (sign, status) = message.matched_receive_vec::<u64>();
            let &[stop, entered] = sign.as_slice() else {
                continue;
            };
            if stop > 0 {
                self.wishes.anyone.store(true, Ordering::Relaxed);
            }
            let source = status.source_rank() as usize;
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.rank == source) {
                peer.silent = Duration::ZERO;
                peer.entered = entered;
            }
        }
    }

    fn hear_failures(&self, queue: &Receiver<Job>) {
        let anyone = self.world.any_process();
        if let Some(message) = anyone.immediate_matched_probe_with_tag(FAILED) {
            let (text, status) = message.matched_receive_vec::<u8>();
            if let Ok(Job::Fail(own)) = queue.recv_timeout(OWN_FAILURE) {
                self.end(&own);
            }
            let text = String::from_utf8_lossy(&text);
            self.end(&self.named(status.source_rank() as usize, &text));
        }
    }

    fn named(&self, rank: usize, why: &str) -> String {
        match rank {
            0 => why.to_owned(),
            rank => format!("rank {rank}: {why}"),
        }
    }

    fn give_sign(&self) {
        // The first rank passes on what it has heard, so that a wish comes to all.
        let wishes = match self.rank {
            0 => &self.wishes.anyone,
            _ => &self.wishes.own,
        };
        let sign = [u64::from(wishes.load(Ordering::Relaxed)), self.entered];
        for peer in &self.peers {
            let peer = self.world.process_at_rank(peer.rank as i32);
            // Into a buffer, for a rank that does not listen must not keep this one waiting.
            peer.buffered_send_with_tag(&sign[..], ALIVE);
        }
    }

    fn end(&self, why: &str) -> ! {
        (self.tell)(why);
        self.world.abort(self.exit_code)
    }
}
