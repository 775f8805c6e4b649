//! The device against the ISA's definitions.

mod arithmetic;
mod checks;
mod conversions;
mod counters;
mod lanes;
mod logic;
mod matrices;
mod memory;
mod refusals;
mod support;
