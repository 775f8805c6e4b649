//! A CUDA driver in software: it loads PTX, executes it, and checks what it does.
//!
//! Built as a dynamic library it answers the calls of `libcuda.so` that CubeCL's CUDA runtime makes, so that the unmodified
//! runtime compiles kernels for it, launches them and reads their results. It is no model of time: it says whether
//! a kernel computes what it should, touches only what it may, orders what it must, and how much it does.

/// The driver's interface.
pub mod driver;
/// Instructions decoded, and what each does to a warp.
pub mod instruction;
/// Grids, blocks, warps and their memories.
pub mod machine;
/// Launches that were written down, run again without the program that made them.
pub mod replay;
/// What is set from outside.
pub mod settings;
/// PTX as text.
pub mod syntax;
