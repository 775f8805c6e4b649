//! Benches of burn-qlora.
