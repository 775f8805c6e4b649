/// Runs `$kernel` with `$E` the element type of `$dtype`, or `$otherwise` where the CPU's kernels do not know it: they read
/// f32, f16 and bf16.
#[macro_export]
macro_rules! with_element {
    ($dtype:expr, $E:ident => $kernel:expr, else $otherwise:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $E = f32;
                $kernel
            }
            $crate::DType::BF16 => {
                type $E = $crate::bf16;
                $kernel
            }
            $crate::DType::F16 => {
                type $E = $crate::f16;
                $kernel
            }
            _ => $otherwise,
        }
    };
}
