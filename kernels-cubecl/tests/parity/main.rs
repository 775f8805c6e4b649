//! The kernels against recordings of bitsandbytes and against the host implementation, on every runtime
//! compiled in: `--features wgpu` and `--features cpu`.

#[cfg(any(feature = "wgpu", feature = "cpu"))]
mod adamw;
#[cfg(any(feature = "wgpu", feature = "cpu"))]
mod products;
#[cfg(any(feature = "wgpu", feature = "cpu"))]
mod recorded;
#[cfg(any(feature = "wgpu", feature = "cpu"))]
mod refusals;
#[cfg(any(feature = "wgpu", feature = "cpu"))]
mod support;
#[cfg(any(feature = "wgpu", feature = "cpu"))]
mod words;

/// The same tests, once a runtime.
#[cfg(any(feature = "wgpu", feature = "cpu"))]
macro_rules! on_every_runtime {
    ($($module:ident::$test:ident),* $(,)?) => {
        #[cfg(feature = "wgpu")]
        mod wgpu {
            $(#[test] fn $test() { crate::$module::$test(&cubecl::Device::Wgpu(Default::default()).client()); })*
        }
        #[cfg(feature = "cpu")]
        mod cpu {
            $(#[test] fn $test() { crate::$module::$test(&cubecl::Device::Cpu(Default::default()).client()); })*
        }
    };
}

#[cfg(any(feature = "wgpu", feature = "cpu"))]
on_every_runtime!(
    recorded::quantized_words_match_bitsandbytes,
    recorded::products_match_the_recording,
    words::words_have_the_bits_of_the_host,
    words::decoded_values_have_the_bits_of_the_host,
    products::every_kernel_multiplies_every_shape,
    products::every_candidate_is_forced,
    products::half_precision_is_multiplied_in_single,
    products::every_format_is_multiplied,
    products::rows_may_lie_apart,
    products::an_empty_product_is_empty_or_zero,
    adamw::f32_moments_match_the_reference,
    adamw::coded_moments_match_the_reference,
    refusals::types_that_are_no_floats,
    refusals::what_32_bits_cannot_index,
    refusals::kernels_that_the_device_cannot_run,
    refusals::operands_that_do_not_fit,
);
