//! Fine-tune a LLaMA in 4 bits from the command line.

#[cfg(not(any(
    feature = "flex",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "webgpu",
    feature = "cuda",
    feature = "rocm",
    feature = "cpu"
)))]
compile_error!(
    "finetune has no device to compute on: build it with one of the features flex, wgpu, vulkan, metal, webgpu, cuda, rocm, cpu"
);

use std::process::ExitCode;

fn main() -> ExitCode {
    finetune::main(std::env::args_os())
}
