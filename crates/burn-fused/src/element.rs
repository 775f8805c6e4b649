/// Runs `$kernel` with `$E` the element type of `$dtype`, or `$reference` where the kernels do not know it.
macro_rules! with_element {
    ($dtype:expr, $E:ident => $kernel:expr, else $reference:expr) => {
        match $dtype {
            burn_core::tensor::DType::F32 => {
                type $E = f32;
                $kernel
            }
            burn_core::tensor::DType::BF16 => {
                type $E = burn_core::tensor::bf16;
                $kernel
            }
            burn_core::tensor::DType::F16 => {
                type $E = burn_core::tensor::f16;
                $kernel
            }
            _ => $reference,
        }
    };
}
pub(crate) use with_element;
