use burn_core::tensor::DType;
use burn_operands::with_element;
use qlora_cpu::{attention, cross_entropy, glu, rms_norm};

use crate::AttentionShape;
use crate::config::AttentionConfig;
use crate::reference;

/// The bodies of the operations that run; it tells what they take in memory.
///
/// The bodies themselves answer, from what they allocate with. [`rope`](crate::rope) takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// The CPU's kernels, which Flex runs; f64 goes to the reference bodies there too.
    Cpu {
        /// Threads of the rayon pool.
        threads: usize,
    },
    /// The kernels of CubeCL's devices, in types that they serve.
    #[cfg(feature = "cubecl-backend")]
    CubeCl,
    /// The default bodies of [`FusedOps`](crate::FusedOps), composed of a backend's own operations.
    Reference,
}

/// The bytes that one use of an operation takes beside its operands and results.
///
/// A thread's cache-sized pieces are left out, and so are the few copies of its operands that a reference norm or gate makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpMemory {
    /// From the forward to the backward pass: the operands and results that are kept, and one number a row.
    pub saved: u128,
    /// While the forward pass runs.
    pub forward: u128,
    /// While the backward pass runs.
    pub backward: u128,
    /// The largest matrix of `forward` that is allocated at once, where that grows with an operand.
    pub largest: u128,
}

impl Implementation {
    /// Returns what runs on Flex, in this process.
    pub fn on_flex() -> Self {
        Self::Cpu {
            threads: rayon::current_num_threads(),
        }
    }

    /// Returns what runs on CubeCL's devices; the reference bodies unless a feature brings such devices.
    pub const fn on_cubecl() -> Self {
        #[cfg(feature = "cubecl-backend")]
        return Self::CubeCl;
        #[cfg(not(feature = "cubecl-backend"))]
        Self::Reference
    }

    /// [`rms_norm`](crate::rms_norm) or [`add_rms_norm`](crate::add_rms_norm) of `rows` rows of `n` elements.
    pub fn rms_norm(self, rows: usize, n: usize, dtype: DType) -> OpMemory {
        OpMemory {
            saved: rms_norm::saved_bytes(rows, n, dtype.size()),
            ..OpMemory::default()
        }
    }

    /// [`glu`](crate::glu) of `len` elements.
    pub fn glu(self, len: usize, dtype: DType) -> OpMemory {
        OpMemory {
            saved: glu::saved_bytes(len, dtype.size()),
            ..OpMemory::default()
        }
    }

    /// [`causal_attention`](crate::causal_attention), packed or not.
    pub fn attention(
        self,
        shape: &AttentionShape,
        config: AttentionConfig,
        dtype: DType,
    ) -> OpMemory {
        let saved = attention::saved_bytes(shape, dtype.size());
        let reference = OpMemory {
            saved,
            forward: reference::attention::forward_workspace_bytes(shape),
            backward: reference::attention::backward_workspace_bytes(shape, config),
            largest: reference::attention::slab_bytes(shape),
        };
        match self {
            Self::Cpu { threads } => with_element!(dtype, E => OpMemory {
                saved,
                forward: attention::forward_workspace_bytes::<E>(shape, threads),
                backward: attention::backward_workspace_bytes::<E>(shape, config, threads),
                largest: 0,
            }, else reference),
            #[cfg(feature = "cubecl-backend")]
            Self::CubeCl => OpMemory {
                saved,
                backward: qlora_cubecl::fused::attention::backward_workspace_bytes(shape),
                ..OpMemory::default()
            },
            Self::Reference => reference,
        }
    }

    /// [`linear_cross_entropy`](crate::linear_cross_entropy) of `tokens` tokens with a weight `[vocab, n]`, whose
    /// gradient is asked for if it is `tracked`. Both gradients are made in the forward pass.
    pub fn linear_cross_entropy(
        self,
        tokens: usize,
        weight: [usize; 2],
        tracked: bool,
        dtype: DType,
    ) -> OpMemory {
        let bytes = dtype.size();
        let reference = |chunk_copies| {
            let shape = (tokens, weight);
            reference::cross_entropy::workspace_bytes(shape, tracked, bytes, chunk_copies)
        };
        let composed = || reference(reference::cross_entropy::CHUNK_COPIES);
        let forward = match self {
            Self::Cpu { threads } => with_element!(
                dtype,
                E => cross_entropy::workspace_bytes::<E>(tokens, weight, tracked, threads),
                else composed()
            ),
            // The products are the backend's own; the gradient takes the place of the logits.
            #[cfg(feature = "cubecl-backend")]
            Self::CubeCl => reference(1),
            Self::Reference => composed(),
        };
        OpMemory {
            saved: cross_entropy::saved_bytes(tokens, weight, tracked, bytes),
            forward,
            backward: 0,
            largest: match self {
                Self::Cpu { .. } => 0,
                _ => reference::cross_entropy::largest_bytes((tokens, weight), tracked, bytes),
            },
        }
    }

    /// [`lora_linear_cross_entropy`](crate::lora_linear_cross_entropy) of `tokens` tokens with a frozen weight `[vocab, n]` and a
    /// factor of `rank`. All gradients are made in the forward pass.
    pub fn lora_linear_cross_entropy(
        self,
        tokens: usize,
        weight: [usize; 2],
        rank: usize,
        dtype: DType,
    ) -> OpMemory {
        let [vocab, _] = weight;
        let head = self.linear_cross_entropy(tokens, weight, false, dtype);
        let f32s = size_of::<f32>() as u128;
        let (rows, factor) = (
            tokens as u128 * rank as u128 * f32s,
            vocab as u128 * rank as u128 * f32s,
        );
        let saved = head.saved + rows + factor;
        // The low-rank product of a chunk, beside that of the head; the gradient of the rows, in chunks and joined; that of the
        // factor so far, a chunk's part of it and their sum.
        let composed = head.forward + head.largest + 2 * rows + 3 * factor;
        OpMemory {
            saved,
            forward: match self {
                Self::Cpu { threads } => with_element!(
                    dtype,
                    E => cross_entropy::low_rank_workspace_bytes::<E>(tokens, weight, rank, threads),
                    else composed
                ),
                _ => composed,
            },
            backward: 0,
            largest: match self {
                Self::Cpu { threads } => with_element!(
                    dtype,
                    E => cross_entropy::low_rank_kept_bytes(tokens, vocab, threads),
                    else head.largest
                ),
                _ => head.largest.max(factor),
            },
        }
    }
}
