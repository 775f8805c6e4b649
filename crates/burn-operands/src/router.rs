//! Operations as custom operations of Burn's IR, which a remote device sends to its server and a capture records: [`send`] on the
//! client's side, [`serve`] and [`Call`] where the operation runs.

use burn_core::backend::ir::{
    BackendIr, CustomOpIr, HandleContainer, OperationIr, OperationOutput, ScalarIr, TensorIr,
};
use burn_core::backend::tensor::{FloatTensor, IntTensor};
use burn_core::tensor::{DType, Shape};
use burn_router::{CustomOpRegistry, RouterClient, RouterTensor};

/// Registers an operation with the client of its operands. Returns its results, which have these shapes and dtypes.
///
/// # Panics
/// Without operands.
pub fn send<C: RouterClient, const N: usize>(
    id: &'static str,
    operands: impl IntoIterator<Item = RouterTensor<C>>,
    results: [(Shape, DType); N],
    scalars: Vec<ScalarIr>,
) -> [RouterTensor<C>; N] {
    let mut operands = operands.into_iter().peekable();
    let first = operands.peek().expect("an operation has an operand");
    let client = first.client.clone();
    let operands: Vec<TensorIr> = operands.map(RouterTensor::into_ir).collect();
    let results =
        results.map(|(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype));
    let operation = CustomOpIr::with_scalars(id, &operands, &results, scalars);
    client.register(OperationIr::Custom(operation)).outputs()
}

/// Returns a setting that may be absent as two scalars, so that its absence is not a value.
pub fn optional(value: Option<f64>) -> [ScalarIr; 2] {
    [
        ScalarIr::Bool(value.is_some()),
        ScalarIr::Float(value.unwrap_or_default()),
    ]
}

/// Registers what runs an operation.
pub fn serve<B: BackendIr>(
    registry: &mut CustomOpRegistry<B>,
    id: &'static str,
    run: fn(&mut Call<'_, B>),
) {
    registry.register(id, move |handles, operation, _| {
        run(&mut Call::new(handles, operation));
    });
}

/// A custom operation where it runs. Operands, scalars and results are taken in the order in which they were sent.
pub struct Call<'a, B: BackendIr> {
    handles: &'a mut HandleContainer<B::Handle>,
    operation: &'a CustomOpIr,
    operands: std::slice::Iter<'a, TensorIr>,
    scalars: std::slice::Iter<'a, ScalarIr>,
    results: std::slice::Iter<'a, TensorIr>,
}

/// # Panics
/// All of its functions panic, with the operation's name, on a call that has not what they are asked for: that is one of
/// another version of the crate.
impl<'a, B: BackendIr> Call<'a, B> {
    fn new(handles: &'a mut HandleContainer<B::Handle>, operation: &'a CustomOpIr) -> Self {
        Self {
            handles,
            operation,
            operands: operation.inputs.iter(),
            scalars: operation.scalars.iter(),
            results: operation.outputs.iter(),
        }
    }

    /// Returns the next operand.
    pub fn float(&mut self) -> FloatTensor<B> {
        let operand = self.operands.next();
        let operand = operand.unwrap_or_else(|| malformed(self.operation));
        self.handles.get_float_tensor::<B>(operand)
    }

    /// Returns the next operand, of integers.
    pub fn int(&mut self) -> IntTensor<B> {
        let operand = self.operands.next();
        let operand = operand.unwrap_or_else(|| malformed(self.operation));
        self.handles.get_int_tensor::<B>(operand)
    }

    /// Returns the next operands.
    pub fn floats<const N: usize>(&mut self) -> [FloatTensor<B>; N] {
        std::array::from_fn(|_| self.float())
    }

    /// Returns the number of operands that were not taken yet.
    pub fn operands_left(&self) -> usize {
        self.operands.len()
    }

    /// Returns the next scalar, a size or the place in a list.
    pub fn size(&mut self) -> usize {
        match self.scalars.next() {
            Some(ScalarIr::UInt(value)) => *value as usize,
            _ => malformed(self.operation),
        }
    }

    /// Returns the next scalar, a real number.
    pub fn number(&mut self) -> f64 {
        match self.scalars.next() {
            Some(ScalarIr::Float(value)) => *value,
            _ => malformed(self.operation),
        }
    }

    /// Returns the next scalar, a truth value.
    pub fn flag(&mut self) -> bool {
        match self.scalars.next() {
            Some(ScalarIr::Bool(value)) => *value,
            _ => malformed(self.operation),
        }
    }

    /// Returns the next two scalars as [`optional`] made them.
    pub fn optional(&mut self) -> Option<f64> {
        let is_some = self.flag();
        let value = self.number();
        is_some.then_some(value)
    }

    /// Returns the element of a list at the place that the next scalar says.
    pub fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        let place = self.size();
        *list.get(place).unwrap_or_else(|| malformed(self.operation))
    }

    /// Gives the next results.
    pub fn give<const N: usize>(&mut self, results: [FloatTensor<B>; N]) {
        for result in results {
            let place = self.results.next();
            let place = place.unwrap_or_else(|| malformed(self.operation));
            self.handles.register_float_tensor::<B>(&place.id, result);
        }
    }

    /// Gives the next results, of integers.
    pub fn give_int<const N: usize>(&mut self, results: [IntTensor<B>; N]) {
        for result in results {
            let place = self.results.next();
            let place = place.unwrap_or_else(|| malformed(self.operation));
            self.handles.register_int_tensor::<B>(&place.id, result);
        }
    }
}

fn malformed(operation: &CustomOpIr) -> ! {
    panic!(
        "the operation {} came with other operands or settings than this version has: use one version of the crate on client \
         and server",
        operation.id
    )
}
