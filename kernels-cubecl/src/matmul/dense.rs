//! The product of two dense f32 matrices in f32, for devices whose matrix instructions would round its operands.
//!
//! cubek's default routine gives f32 to the tensor cores of an NVIDIA device as TF32, which keeps 10 of 23 bits: 1e-4 to
//! 5e-4 of a result, against 1e-6. Its routine on plain units multiplies what it is given.
//!
//! Operations: 2·m·n·k on f32 units, an eighth of TF32's rate on an A100 (19.5 TFLOP/s of 156). It is for training in f32,
//! of which its peers expect the same; f16 and bf16 go through matrix instructions without a loss.

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::std::tensor::TensorHandle;
use cubek_matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek_matmul::launch::launch_ref;
use cubek_matmul::multi_level::Strategy;
use cubek_std::InputBinding;

use crate::error::{KernelError, check_length, check_single};
use crate::operand::{elements, empty};

const OPERATION: &str = "matmul";
const F32: ElemType = ElemType::Float(FloatKind::F32);

/// Returns whether this product is needed: the types are f32, which the device's matrix instructions would round, and there is
/// something to add up.
pub fn serves(client: &Client, [lhs, rhs]: [&TensorHandle; 2]) -> bool {
    let rounds = || {
        client
            .properties()
            .supports_type(ElemType::Float(FloatKind::TF32))
    };
    let filled = |tensor: &TensorHandle| elements(tensor) > 0;
    lhs.dtype == F32 && rhs.dtype == F32 && filled(lhs) && filled(rhs) && rounds()
}

/// Multiplies `lhs: [m, k]` by `rhs: [k, n]` in f32, into a new contiguous tensor. Neither is empty; both may be views.
///
/// # Errors
/// [`KernelError::NotSingle`], [`KernelError::ShapeMismatch`] and [`KernelError::Unavailable`].
pub fn multiply(
    client: &Client,
    lhs: TensorHandle,
    rhs: TensorHandle,
) -> Result<TensorHandle, KernelError> {
    check_single(OPERATION, lhs.dtype)?;
    check_single(OPERATION, rhs.dtype)?;
    check_length(OPERATION, "left matrix's rank", lhs.shape().len(), 2)?;
    check_length(OPERATION, "right matrix's rank", rhs.shape().len(), 2)?;
    check_length(
        OPERATION,
        "right matrix's first dimension",
        rhs.shape()[0],
        lhs.shape()[1],
    )?;
    let y = empty(client, [lhs.shape()[0], rhs.shape()[1]], F32);
    let [lhs, rhs] = [lhs, rhs].map(|operand| InputBinding::new(operand.binding(), F32));
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: F32,
        rhs: F32,
        out: F32,
    });
    let units = Strategy::SimpleUnit(Default::default()).into();
    launch_ref(&units, client, lhs, rhs, y.clone().binding(), &mut types).map_err(|error| {
        KernelError::Unavailable {
            operation: OPERATION,
            reason: format!("{error:?}"),
        }
    })?;
    Ok(y)
}
