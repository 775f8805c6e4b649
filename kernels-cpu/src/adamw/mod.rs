//! AdamW, one pass over parameter, gradient and both moments.
//!
//! - [`update_f32`]: f32 moments.
//! - [`update_dynamic8`]: moments in blocks of 8-bit codes.
//!
//! Every element, or block, is worked out by itself with operations that round as IEEE 754 says and none of which is
//! contracted, so the bits depend neither on how the state is cut into runs, nor on the threads, nor on the
//! width of the vectors: they are those of [`nf4::adamw`].

mod dynamic8;
mod f32;

pub use dynamic8::update_dynamic8;
pub use f32::update_f32;

/// Elements that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// Defines functions whose bodies are compiled for wider vectors too, chosen when they run.
macro_rules! vectorised {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn body($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
                fn v4($($arg: $ty),*) {
                    body($($arg),*)
                }

                #[target_feature(enable = "avx2")]
                fn v3($($arg: $ty),*) {
                    body($($arg),*)
                }

                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx2")
                {
                    // SAFETY: the processor has what the function was compiled for.
                    return unsafe { v4($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has what the function was compiled for.
                    return unsafe { v3($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
use vectorised;
