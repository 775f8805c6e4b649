//! The layers where they are not computed at once: recorded by a capture, and on the device of a server. Apart from the suite, for
//! both are devices that Burn has to be built with, and the client of a server brings a network stack:
//!
//! ```text
//! cargo test -p burn-qlora --features ndarray,capture,router --test routed
//! cargo test -p burn-qlora --features flex,capture,remote-server,remote-websocket --test routed
//! ```

// `NdArray` is deprecated upstream, and served as long as it is there.
#![cfg_attr(not(feature = "flex"), allow(deprecated))]

mod captured;
mod here;
mod parts;
#[cfg(all(feature = "remote-server", feature = "remote-websocket"))]
mod remote;
mod step;
