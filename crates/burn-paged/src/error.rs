//! The errors of paged state.

use std::path::PathBuf;

use burn_operands::UnservedDevice;

/// An error of this crate: which file or value, what was wrong with it, and what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PagedError {
    /// A setting that cannot work.
    #[error("{field} is {value}, but it must be {expected}")]
    Config {
        /// The setting.
        field: &'static str,
        /// The value it had.
        value: String,
        /// The values that it may have.
        expected: &'static str,
    },
    /// The operating system refused something on the page file.
    #[error(
        "cannot {operation} the page file {}: {reason}; give it a disk with room for what is paged",
        path.display()
    )]
    PageFile {
        /// The page file.
        path: PathBuf,
        /// `create`, `extend`, `read`, `write` or `inspect`.
        operation: &'static str,
        /// The operating system's reason.
        reason: String,
    },
    /// The page file is shorter than the pages that were written to it.
    #[error(
        "the page file {} was truncated: it has {actual} bytes of {expected}; go on from the last checkpoint",
        path.display()
    )]
    Truncated {
        /// The page file.
        path: PathBuf,
        /// The bytes it should have.
        expected: u64,
        /// The bytes it has.
        actual: u64,
    },
    /// The page file is gone.
    #[error(
        "the page file {} was removed or replaced while in use; go on from the last checkpoint",
        path.display()
    )]
    Missing {
        /// The page file.
        path: PathBuf,
    },
    /// There is a file where the page file should be, and it is not a page file, or not this one.
    #[error(
        "{} is not a page file of this optimizer and is left as it is: remove it or name another",
        path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Another process pages into the file.
    #[error("the page file {} is in use by another process: name another", path.display())]
    InUse {
        /// The page file.
        path: PathBuf,
    },
    /// A weight in pages that cannot be read, or is not what it was.
    #[error("{weight}: {reason}")]
    Weight {
        /// The weight, as the model names it.
        weight: String,
        /// Why it cannot be read, or that it has changed.
        reason: String,
    },
    /// A parameter on another device than the state.
    #[error(
        "the paged state is on {expected}, but the parameter is on {actual}: use one optimizer for each device"
    )]
    Device {
        /// The device of the state.
        expected: String,
        /// The device of the parameter.
        actual: String,
    },
    /// This build of the crate has no update for the device.
    #[error(transparent)]
    Unserved(#[from] UnservedDevice),
    /// A tensor that the update is not written for.
    #[error(
        "paged optimizers update F32 parameters with F32 gradients, but this {what} is {actual}: cast it"
    )]
    Dtype {
        /// `parameter` or `gradient`.
        what: &'static str,
        /// Its dtype.
        actual: String,
    },
    /// State that does not fit the parameter.
    #[error("the state is of {actual} elements, but the parameter has {expected}")]
    Length {
        /// Elements of the parameter.
        expected: usize,
        /// Elements of the state.
        actual: usize,
    },
    /// The device failed.
    #[error("the device failed while optimizer state was paged: {reason}")]
    DeviceFailed {
        /// The backend's reason.
        reason: String,
    },
}
