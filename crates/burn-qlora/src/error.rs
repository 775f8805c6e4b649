//! Errors of adapters, their layers and their files.

use std::path::PathBuf;
use tensor_files::TensorFileError;

/// An error of this crate: which thing, what value it had, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// A field of a [`LoraConfig`](crate::LoraConfig) has a value that cannot work.
    #[error("LoRA {field} is {value}, but it must be {expected}")]
    InvalidConfig {
        /// Name of the field, as it is spelled in the configuration.
        field: &'static str,
        /// The value it had.
        value: String,
        /// The values it can have.
        expected: &'static str,
    },
    /// Factors that there is no memory for.
    #[error(
        "the factors of rank {rank} of a layer of [{}, {}] do not fit into memory; lower the rank",
        shape[0],
        shape[1]
    )]
    TooLarge {
        /// The rank.
        rank: usize,
        /// The layer's `[out_features, in_features]`.
        shape: [usize; 2],
    },
    /// A target name that no linear layer of the model has.
    #[error("no linear layer is called `{target}`; this model has: {}", known.join(", "))]
    UnknownTarget {
        /// The name asked for.
        target: String,
        /// The short names of the layers that can be adapted, sorted.
        known: Vec<String>,
    },
    /// A target pattern that is not a regular expression, or matches no layer.
    #[error("target pattern `{pattern}` {reason}; this model has: {}", known.join(", "))]
    InvalidPattern {
        /// The pattern asked for.
        pattern: String,
        /// Why it cannot be used.
        reason: String,
        /// The short names of the layers that can be adapted, sorted.
        known: Vec<String>,
    },
    /// A token to be trained that has no row.
    #[error(
        "token {token} has no row in `{layer}`, which has {rows}; add it to the vocabulary, or leave it out of \
         trainable_token_indices"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// The path of embedding or head.
        layer: String,
        /// The number of its rows.
        rows: usize,
    },
    /// Rows to be trained of what is no embedding and no head.
    #[error(
        "rows of `{layer}` are to be trained, but this model has no embedding or head of that name"
    )]
    NoTable {
        /// The name asked for.
        layer: String,
    },
    /// An adapter on a head of which rows are to be trained.
    #[error(
        "`{layer}` cannot carry an adapter while rows of it are trained; leave it out of the targets, or train no rows of tokens"
    )]
    AdaptedRows {
        /// The path of the head.
        layer: String,
    },
    /// A layer that was to make up for what its weight lost, on a weight that is not quantized.
    #[error(
        "layer `{layer}` is not quantized, so that LoftQ has nothing to make up for; load the weights in 4 bits"
    )]
    NotQuantized {
        /// The layer's path.
        layer: String,
    },
    /// A dense weight that is none of a layer's.
    #[error("the dense weight of layer `{layer}` {reason}; give the one that was quantized")]
    DenseWeight {
        /// The layer's path.
        layer: String,
        /// The fault.
        reason: String,
    },
    /// The weight could not be quantized.
    #[error(transparent)]
    Quantize(#[from] burn_nf4::BlockwiseTensorError),
    /// The weight of a model's layer could not be quantized.
    #[error("layer `{layer}`: {source}")]
    QuantizeLayer {
        /// The layer's path.
        layer: String,
        /// The reason.
        source: burn_nf4::BlockwiseTensorError,
    },
    /// Weights in pages that could not be written or read.
    #[error(transparent)]
    Paged(#[from] burn_paged::PagedError),
    /// A model that has no layers to quantize.
    #[error("the model has no layer that can be quantized; a field of type `AnyLinear` is one")]
    NoLayers,
    /// Adapters were asked for, but no layer can carry one.
    #[error(
        "no layer of the model can carry an adapter; an `AnyLinear` can once it is quantized, so quantize the model first"
    )]
    NothingToAdapt,
    /// A file whose content is not that of an adapter.
    #[error("{} is not a valid {expected}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format it should have.
        expected: &'static str,
        /// The fault.
        reason: String,
    },
    /// A file cannot be read or written, or is broken; after a failed write nothing is left behind.
    #[error(transparent)]
    File(#[from] TensorFileError),
    /// An adapter that uses something this crate cannot compute.
    #[error("{} sets `{key}` to {value}, which is not supported; {way_out}", path.display())]
    UnsupportedAdapter {
        /// The adapter's configuration file.
        path: PathBuf,
        /// The key in it.
        key: String,
        /// Its value.
        value: String,
        /// What to do about it.
        way_out: &'static str,
    },
    /// A path where no adapter is.
    #[error("{} is no adapter: {reason}", path.display())]
    NoAdapter {
        /// The path that was given.
        path: PathBuf,
        /// What is there instead, and what to give.
        reason: String,
    },
    /// A value of an adapter that is NaN or infinite.
    #[error(
        "tensor `{tensor}` of {} holds {value}; the adapter is damaged, or its training diverged: \
         take an earlier checkpoint of it",
        path.display()
    )]
    NotFinite {
        /// The adapter's weight file.
        path: PathBuf,
        /// The first tensor with such a value.
        tensor: String,
        /// The first such value.
        value: f32,
    },
    /// A value to be saved that is NaN or infinite; nothing is written.
    #[error(
        "the adapter is not saved to {}: `{tensor}` holds {value}, its training diverged; \
         go on from an earlier checkpoint with a lower learning rate",
        path.display()
    )]
    Diverged {
        /// The file that is not written.
        path: PathBuf,
        /// The first tensor with such a value, by its name in the file.
        tensor: String,
        /// The first such value.
        value: f32,
    },
    /// An adapter whose tensors do not fit the model's layers.
    #[error("{} belongs to another model: {reason}", path.display())]
    AnotherModel {
        /// The adapter's weight file.
        path: PathBuf,
        /// The first tensor that does not fit, and how.
        reason: String,
    },
    /// Saving was asked for, but no layer has an adapter.
    #[error("the model has no adapters to save; attach or load some first")]
    NoAdapters,
    /// The configuration to save is not the one the model's adapters were made with; the file would
    /// describe another adapter.
    #[error(
        "the adapter of layer `{layer}` has {field} {has}, but the configuration to save says {says}; \
         save it with the configuration it was made with"
    )]
    AnotherConfig {
        /// The layer's path.
        layer: String,
        /// The field that differs.
        field: &'static str,
        /// The adapter's value.
        has: f64,
        /// The configuration's value.
        says: f64,
    },
    /// A tensor could not be brought to the host.
    #[error("cannot read tensor `{name}` from the device: {reason}")]
    Device {
        /// The tensor.
        name: String,
        /// The backend's reason.
        reason: String,
    },
}
