//! The streams that a buffer's copies go through, beside the one that updates run on.
//!
//! On CUDA and ROCm each buffer has a stream of its own. So a page comes in while another is updated and, since such devices copy
//! both ways at once, while a third goes out. Elsewhere CubeCL has one queue, which is that of the updates.
//!
//! CubeCL lets a stream wait for another where it is given memory that the other has *allocated* since it last waited. That says
//! nothing of a buffer that is written again and again, so the waits are asked for here: by an empty write to memory that the
//! other stream has just allocated.

use burn_core::tensor::Bytes;
use burn_cubecl::CubeDevice;
use cubecl::client::Client;
use cubecl_environment::stream::{Stream, StreamId};

/// The bytes that are allocated to be waited for: any will do.
const TOKEN: usize = 4;

/// Returns whether a device has streams beside one another.
fn has_streams(device: &CubeDevice) -> bool {
    matches!(device, CubeDevice::Cuda(_) | CubeDevice::Hip(_))
}

/// What the copies of one buffer go through.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopyQueue(Option<Stream>);

impl CopyQueue {
    /// Returns a queue for a buffer on `device`.
    pub fn new(device: &CubeDevice) -> Self {
        Self(has_streams(device).then(Stream::new))
    }

    /// Does `work`, whose copies go through this queue.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        match self.0 {
            Some(stream) => stream.enter(work),
            None => work(),
        }
    }
}

/// The stream that updates run on, which is that of whichever thread makes them.
pub(super) struct Updates {
    client: Client,
    /// None where everything goes through one queue, and before the first update.
    stream: Option<Stream>,
    has_streams: bool,
}

impl Updates {
    /// Returns the updates on `device`, of which none was made yet.
    pub fn new(client: Client, device: &CubeDevice) -> Self {
        Self {
            client,
            stream: None,
            has_streams: has_streams(device),
        }
    }

    /// Goes over to the calling thread's stream, which waits for the one before.
    pub fn follow(&mut self) {
        if !self.has_streams {
            return;
        }
        let now = Stream::from_id(StreamId::current());
        let before = self.stream.replace(now);
        if let Some(before) = before.filter(|before| *before != now) {
            self.order(before, now);
        }
    }

    /// Lets the updates from now on wait for the copies of a queue so far.
    pub fn wait_for(&self, copies: CopyQueue) {
        if let (Some(updates), Some(copies)) = (self.stream, copies.0) {
            self.order(copies, updates);
        }
    }

    /// Lets the copies of a queue from now on wait for the updates so far.
    pub fn are_waited_for_by(&self, copies: CopyQueue) {
        if let (Some(updates), Some(copies)) = (self.stream, copies.0) {
            self.order(updates, copies);
        }
    }

    fn order(&self, first: Stream, then: Stream) {
        let token = first.enter(|| self.client.empty(TOKEN));
        let nothing = Bytes::from_bytes_vec(Vec::new());
        then.enter(|| self.client.write(&token, nothing));
    }
}
