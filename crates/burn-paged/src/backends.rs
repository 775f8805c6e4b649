#[cfg(feature = "cubecl-backend")]
mod cubecl;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "ndarray", feature = "tch"))]
mod host;
