use cubecl::Device;

/// The message of a test that was compiled without a runtime.
pub const NO_RUNTIME: &str = "no runtime is compiled in: turn on one of the features wgpu, vulkan, metal, webgpu, cuda, rocm, cpu";

/// CubeCL's device for a feature of that name, the one that Burn's device of the same name runs on.
///
/// # Panics
/// If this machine does not have it; the text says what is missing.
pub fn runtime(feature: &str) -> Device {
    let device = match feature {
        "wgpu" => Device::wgpu(Default::default()),
        "vulkan" => Device::vulkan(Default::default()),
        "metal" => Device::metal_msl(Default::default()),
        "webgpu" => Device::webgpu(Default::default()),
        "cuda" => Device::cuda(0),
        "rocm" => Device::rocm(0),
        "cpu" => Device::cpu(),
        other => panic!("{other} is no runtime of CubeCL"),
    };
    device.unwrap_or_else(|error| panic!("{feature}: {error}"))
}

/// The same tests once on every runtime that the features of the calling crate compile in, in a module of the feature's name; one
/// test that is ignored where there is none, as without any feature.
///
/// `on_every_runtime!(in run: module::test, …)`, or `in run: test` for one at the root, hands the feature's name and the test to `run`, which makes a client of
/// [`runtime`](crate::runtime) of that name and says what a test runs beside.
#[macro_export]
macro_rules! on_every_runtime {
    (in $run:path: $($tests:tt)+) => {
        $crate::on_compiled_runtimes!(on_one_runtime in $run: $($tests)+);
        $crate::without_runtimes! {
            #[test]
            #[ignore = "needs one of the features wgpu, vulkan, metal, webgpu, cuda, rocm, cpu"]
            fn a_runtime_is_compiled_in() {
                // What would have been run is compiled all the same.
                $crate::on_no_runtime!(in $run: $($tests)+);
                panic!("{}", $crate::NO_RUNTIME);
            }
        }
    };
}

/// The tests of [`on_every_runtime!`] on the runtime of the feature `$name`.
#[doc(hidden)]
#[allow(
    clippy::crate_in_macro_def,
    reason = "the tests are in the calling crate"
)]
#[macro_export]
macro_rules! on_one_runtime {
    ($name:ident in $run:path: $($module:ident::$test:ident),+ $(,)?) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    $run(stringify!($name), crate::$module::$test);
                }
            )+
        }
    };
    ($name:ident in $run:path: $test:ident) => {
        mod $name {
            #[test]
            fn $test() {
                $run(stringify!($name), crate::$test);
            }
        }
    };
}

/// The tests of [`on_every_runtime!`], named but not run.
#[doc(hidden)]
#[allow(
    clippy::crate_in_macro_def,
    reason = "the tests are in the calling crate"
)]
#[macro_export]
macro_rules! on_no_runtime {
    (in $run:path: $($module:ident::$test:ident),+ $(,)?) => {
        let _ = $run;
        $(let _ = crate::$module::$test;)+
    };
    (in $run:path: $test:ident) => {
        let _ = ($run, crate::$test);
    };
}
