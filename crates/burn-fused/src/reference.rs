//! Reference implementations, composed of a backend's own tensor primitives: the default bodies of
//! [`FusedOps`](crate::FusedOps), for backends without kernels of their own and for dtypes that
//! the kernels do not take.

pub(crate) mod attention;
pub(crate) mod cached_attention;
pub(crate) mod cross_entropy;
pub(crate) mod glu;
pub(crate) mod lora_cross_entropy;
pub(crate) mod precision;
pub(crate) mod rms_norm;
pub(crate) mod rope;
