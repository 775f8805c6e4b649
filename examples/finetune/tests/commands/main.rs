//! Drives the built `finetune` binary on the tiny fixture models, as a user would.
//!
//! - [`support`]: runs the binary, makes models, data and broken files.
//! - [`train`], [`plan`], [`eval`], [`generate`], [`quantize`], [`export`]: what each command does.
//! - [`chat_data`]: conversations as data.
//! - [`data`]: what a data set becomes, rows held out, and rows that are too much for memory.
//! - [`data_files`]: data in the formats people have.
//! - [`families`]: all of that on the families beside LLaMA.
//! - [`head`]: an adapter on the head.
//! - [`interrupt`]: Ctrl-C, kill, and going on as if nothing had happened.
//! - [`kills`]: the same at many random moments.
//! - [`layers`]: which layers are adapted, and how.
//! - [`methods`]: LoRA+, noise, other optimizers.
//! - [`resume`]: what may have changed when a run goes on, and what is never lost.
//! - [`console`]: nobody reads what is printed.
//! - [`mpi`]: processes that train together.
//! - [`names`]: files and texts whose names are not fit to print.
//! - [`numbers`]: numbers at the ends of their ranges.
//! - [`preferences`]: chosen and rejected answers, and labelled ones.
//! - [`paging`]: optimizer state that does not stay in memory.
//! - [`refusals`]: bad input, each one line, exit code 2 and nothing half-written.
//! - [`serve`]: answers over HTTP.
//! - [`smollm2`]: the memory plan of a real model.
//! - [`gemma3`]: a real Gemma evaluated, continued and trained.
//! - [`device_memory`]: the memory plan on a device that tells what it has reserved.
//! - [`tokens`]: tokens of one's own.
//! - [`verify`]: the first steps of a run, taken again.
//! - [`web`]: an adapter from the page that trains in a browser.
//! - [`watching`]: samples, events for TensorBoard, the report.
//! - [`full_disk`]: the same when the disk is full while saving.

mod chat_data;
mod console;
mod data;
mod data_files;
#[cfg(feature = "wgpu")]
mod device_memory;
mod eval;
mod export;
mod families;
mod full_disk;
mod gemma3;
mod generate;
mod head;
mod interrupt;
mod keep;
mod kills;
mod layers;
mod methods;
#[cfg(feature = "mpi")]
mod mpi;
mod names;
mod numbers;
mod paging;
mod plan;
mod preferences;
mod quantize;
mod refusals;
mod resume;
mod serve;
mod smollm2;
mod support;
mod tokens;
mod train;
mod verify;
mod watching;
mod web;
