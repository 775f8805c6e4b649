//! AdamW, one pass over parameter, gradient and both moments.
//!
//! - [`update_f32`]: f32 moments.
//! - [`update_dynamic8`]: moments in blocks of 8-bit codes.
//!
//! Every element, or block, is worked out by itself with operations that round as IEEE 754 says and none of which is
//! contracted (Rust never does, whatever the instruction set has), so the bits depend neither on how the state is cut
//! into runs, nor on the threads, nor on the width of the vectors: they are those of [`nf4::adamw`].

mod dynamic8;
mod f32;

pub use dynamic8::update_dynamic8;
pub use f32::update_f32;

/// Elements that one thread takes at a time.
const CHUNK: usize = 1 << 14;
