//! The product of two dense matrices where cubek's default routine is not the right one: of f32 on a device whose matrix
//! instructions would round its operands, and of every type on a device without planes.
//!
//! The default routine gives f32 to the tensor cores of an NVIDIA device as TF32, which keeps 10 of 23 bits: 1e-4 to
//! 5e-4 of a result, against 1e-6. cubek's routine on plain units multiplies what it is given: 2·m·n·k operations on f32
//! units, an eighth of TF32's rate on an A100 (19.5 TFLOP/s of 156). It is for training in f32, of which its peers expect the
//! same; f16 and bf16 go through matrix instructions without a loss.
//!
//! CubeCL's CPU runtime has planes of one unit. The default routine asks for more shared memory than there is, or is unrolled
//! into a kernel that LLVM compiles for half a minute; cubek's routine for CPUs takes a second.

use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::std::tensor::{TensorHandle, into_contiguous};
use cubek_matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek_matmul::launch::launch_ref;
use cubek_matmul::routine::BlueprintStrategy;
use cubek_matmul::strategy::Strategy;
use cubek_matmul::{multi_level, tiled};
use cubek_std::InputBinding;

use crate::error::{KernelError, check_length, is_served};
use crate::operand::{elements, empty};

const OPERATION: &str = "matmul";
const F32: ElemType = ElemType::Float(FloatKind::F32);

/// Returns whether the device's units work in planes, which cubek's default routine takes for granted.
pub fn has_planes(client: &Client) -> bool {
    client.properties().hardware.plane_size_max > 1
}

/// Returns whether this product is needed: the device is one of those above for the operands' type, and there is something to
/// add up.
pub fn serves(client: &Client, [lhs, rhs]: [&TensorHandle; 2]) -> bool {
    let filled = |tensor: &TensorHandle| elements(tensor) > 0;
    lhs.dtype == rhs.dtype && filled(lhs) && filled(rhs) && routine(client, lhs.dtype).is_some()
}

fn routine(client: &Client, dtype: ElemType) -> Option<Strategy> {
    let rounds = || {
        client
            .properties()
            .supports_type(ElemType::Float(FloatKind::TF32))
    };
    let inferred = BlueprintStrategy::Inferred;
    if !has_planes(client) && is_served(dtype) {
        Some(tiled::Strategy::CpuGemm(inferred(Default::default())).into())
    } else if dtype == F32 && rounds() {
        Some(multi_level::Strategy::SimpleUnit(Default::default()).into())
    } else {
        None
    }
}

/// Multiplies `lhs: [m, k]` by `rhs: [k, n]`, of one type, into a new contiguous tensor of it. Sums are of f32. Neither is
/// empty; both may be views.
///
/// # Errors
/// [`KernelError::UnsupportedType`], [`KernelError::ShapeMismatch`] and [`KernelError::Unavailable`].
pub fn multiply(
    client: &Client,
    lhs: TensorHandle,
    rhs: TensorHandle,
) -> Result<TensorHandle, KernelError> {
    let dtype = lhs.dtype;
    let unsupported = |dtype| KernelError::UnsupportedType {
        operation: OPERATION,
        dtype,
    };
    let routine = routine(client, dtype).ok_or(unsupported(dtype))?;
    if rhs.dtype != dtype {
        return Err(unsupported(rhs.dtype));
    }
    check_length(OPERATION, "left matrix's rank", lhs.shape().len(), 2)?;
    check_length(OPERATION, "right matrix's rank", rhs.shape().len(), 2)?;
    check_length(
        OPERATION,
        "right matrix's first dimension",
        rhs.shape()[0],
        lhs.shape()[1],
    )?;
    let y = empty(client, [lhs.shape()[0], rhs.shape()[1]], dtype);
    let [lhs, rhs] = [lhs, rhs].map(|operand| {
        let operand = contiguous_in_an_axis(client, operand);
        InputBinding::new(operand.binding(), dtype)
    });
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: dtype,
        rhs: dtype,
        out: dtype,
    });
    launch_ref(&routine, client, lhs, rhs, y.clone().binding(), &mut types).map_err(|error| {
        KernelError::Unavailable {
            operation: OPERATION,
            reason: format!("{error:?}"),
        }
    })?;
    Ok(y)
}

/// The routines read rows or columns that lie without gaps.
fn contiguous_in_an_axis(client: &Client, operand: TensorHandle) -> TensorHandle {
    if operand.strides().contains(&1) {
        operand
    } else {
        let dtype = operand.dtype;
        into_contiguous(client, operand.binding(), dtype)
    }
}
