/// Expands `$one` once for each CubeCL runtime that the features of the calling crate compile in, with the feature's name.
///
/// The features are those of the crate that expands it, which has all of `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda`, `rocm` and `cpu`:
/// features of this crate would be the union of those of all crates that are tested together.
#[doc(hidden)]
#[macro_export]
macro_rules! on_compiled_runtimes {
    ($one:ident in $run:path: $($tests:tt)+) => {
        #[cfg(feature = "wgpu")]
        $crate::$one!(wgpu in $run: $($tests)+);
        #[cfg(feature = "vulkan")]
        $crate::$one!(vulkan in $run: $($tests)+);
        #[cfg(feature = "metal")]
        $crate::$one!(metal in $run: $($tests)+);
        #[cfg(feature = "webgpu")]
        $crate::$one!(webgpu in $run: $($tests)+);
        #[cfg(feature = "cuda")]
        $crate::$one!(cuda in $run: $($tests)+);
        #[cfg(feature = "rocm")]
        $crate::$one!(rocm in $run: $($tests)+);
        #[cfg(feature = "cpu")]
        $crate::$one!(cpu in $run: $($tests)+);
    };
}

/// Keeps `$item` where the features of the calling crate compile in no CubeCL runtime.
#[doc(hidden)]
#[macro_export]
macro_rules! without_runtimes {
    ($item:item) => {
        #[cfg(not(any(
            feature = "wgpu",
            feature = "vulkan",
            feature = "metal",
            feature = "webgpu",
            feature = "cuda",
            feature = "rocm",
            feature = "cpu"
        )))]
        $item
    };
}
