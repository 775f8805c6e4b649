//! An optimizer of burn-optim, all of its state on the device.

use super::Factor;
use crate::error::FinetuneError;
use crate::train::OptimizerKind;
use burn::tensor::{Tensor, TensorData};
use burn_optim::{Optimizer, RecordState, StateSink, StateSource};
use burn_paged::PagingReport;
use std::collections::BTreeMap;
use std::path::Path;
use tensor_files::{AtomicFile, Dtype, TensorFile, TensorWriter};

/// How often a factor was updated; in the file, and where burn-optim's state counts too.
const STEPS: &str = "steps";
const TIME: &str = "time";

/// An optimizer with the states of the factors, in their order.
pub(super) struct Resident<O: Optimizer> {
    kind: OptimizerKind,
    optimizer: O,
    states: Vec<Option<State<O>>>,
}

/// The state of one factor.
struct State<O: Optimizer> {
    /// How often it was updated.
    steps: usize,
    shape: [usize; 2],
    state: O::State<2>,
}

impl<O: Optimizer> Resident<O> {
    /// Makes it without states.
    pub fn new(kind: OptimizerKind, optimizer: O) -> Self {
        Self {
            kind,
            optimizer,
            states: Vec::new(),
        }
    }

    /// Updates the factor at `place`.
    pub fn update(
        &mut self,
        place: usize,
        lr: f64,
        tensor: Tensor<2>,
        gradient: Tensor<2>,
    ) -> Tensor<2> {
        if self.states.len() <= place {
            self.states.resize_with(place + 1, || None);
        }
        let slot = &mut self.states[place];
        let (steps, state) = match slot.take() {
            Some(state) => (state.steps, Some(state.state)),
            None => (0, None),
        };
        let shape = tensor.dims();
        let (updated, state) = self.optimizer.step(lr, tensor, gradient, state);
        *slot = state.map(|state| State {
            steps: steps + 1,
            shape,
            state,
        });
        updated
    }

    /// Returns the state's size; none of it is ever moved.
    pub fn report(&self) -> PagingReport {
        let shapes = self.states.iter().flatten().map(|state| state.shape);
        let bytes = self.kind.resident_bytes(shapes);
        PagingReport {
            state_bytes: bytes,
            resident_bytes: bytes,
            ..PagingReport::default()
        }
    }

    pub fn save(&self, factors: &[Factor<'_>], path: &Path) -> Result<(), FinetuneError> {
        let states = || {
            let states = factors.iter().zip(&self.states);
            states.filter_map(|(factor, state)| Some((&factor.name, state.as_ref()?)))
        };
        let steps = states().map(|(name, _)| (format!("{name}.{STEPS}"), Dtype::I64, vec![1]));
        let parts = states().flat_map(|(name, state)| {
            let parts = self.kind.parts(state.shape).into_iter();
            parts.map(move |(part, shape)| (format!("{name}.{part}"), Dtype::F32, shape.to_vec()))
        });
        let declared: Vec<_> = steps.chain(parts).collect();
        let mut writer = TensorWriter::begin(AtomicFile::create(path)?, None, declared)?;
        for (name, state) in states() {
            let steps = (state.steps as i64).to_le_bytes();
            writer.write(&format!("{name}.{STEPS}"), &steps)?;
        }
        for (name, state) in states() {
            let mut sink = StateSink::default();
            state.state.state_flatten("", &mut sink);
            for (part, _) in self.kind.parts(state.shape) {
                let data = sink.tensors.iter().find(|(found, _)| found == part);
                let values = data.map(|(_, data)| data.iter::<f32>().flat_map(f32::to_le_bytes));
                let bytes: Vec<u8> = values.into_iter().flatten().collect();
                writer.write(&format!("{name}.{part}"), &bytes)?;
            }
        }
        Ok(writer.finish()?.commit()?)
    }

    pub fn load(
        &mut self,
        factors: &[Factor<'_>],
        path: &Path,
        steps: usize,
    ) -> Result<(), FinetuneError> {
        let file = StateFile {
            file: TensorFile::open(path)?,
            kind: self.kind,
        };
        let mut states = Vec::new();
        let (mut used, mut most) = (0, None);
        for factor in factors {
            let state = file.state::<O>(factor)?;
            if let Some(state) = &state {
                used += 1 + self.kind.parts(factor.shape).len();
                most = most.max(Some(state.steps));
            }
            states.push(state);
        }
        if used != file.file.len() {
            return Err(file.malformed(
                "it holds the state of other adapters too, or of another optimizer".to_owned(),
            ));
        }
        match most {
            Some(most) if most != steps => Err(file.malformed(format!(
                "its state is that of {most} steps, but the checkpoint is of {steps}"
            ))),
            _ => {
                self.states = states;
                Ok(())
            }
        }
    }
}

/// A file of states.
struct StateFile {
    file: TensorFile,
    kind: OptimizerKind,
}

impl StateFile {
    /// Reads the state of a factor; `None` where it has none, because it never had a gradient.
    fn state<O: Optimizer>(&self, factor: &Factor<'_>) -> Result<Option<State<O>>, FinetuneError> {
        let name = &factor.name;
        let Some(stored) = self.file.tensor(&format!("{name}.{STEPS}")) else {
            return Ok(None);
        };
        if stored.dtype() != Dtype::I64 || stored.shape() != [1] {
            return Err(self.malformed(format!("`{name}.{STEPS}` is not a count")));
        }
        let mut bytes = [0; 8];
        stored.read_into(&mut bytes)?;
        let steps = usize::try_from(i64::from_le_bytes(bytes))
            .map_err(|_| self.malformed("a count of steps is negative".to_owned()))?;
        let mut source = StateSource::new(BTreeMap::from([(TIME.to_owned(), steps.into())]));
        for (part, shape) in self.kind.parts(factor.shape) {
            source.insert_tensor(
                part.to_owned(),
                self.part(&format!("{name}.{part}"), shape)?,
            );
        }
        let state = O::State::<2>::state_unflatten("", &mut source, &factor.device);
        let state =
            state.ok_or_else(|| self.malformed(format!("it is not the state of {}", self.kind)))?;
        Ok(Some(State {
            steps,
            shape: factor.shape,
            state,
        }))
    }

    /// Reads a part, whose values have to be finite.
    fn part(&self, key: &str, shape: [usize; 2]) -> Result<TensorData, FinetuneError> {
        let stored = self
            .file
            .tensor(key)
            .ok_or_else(|| self.malformed(format!("there is no `{key}`")))?;
        if stored.dtype() != Dtype::F32 || stored.shape() != shape {
            return Err(self.malformed(format!(
                "`{key}` is {} {:?}, but {} needs F32 {shape:?}",
                stored.dtype(),
                stored.shape(),
                self.kind
            )));
        }
        let bytes = stored.read()?;
        let (words, _) = bytes.as_chunks();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(TensorData::new(values, shape)),
            Some(place) => Err(self.malformed(format!(
                "element {place} of `{key}` is {}, not a finite number: the file is damaged",
                values[place]
            ))),
        }
    }

    fn malformed(&self, reason: String) -> FinetuneError {
        FinetuneError::Malformed {
            path: self.file.path().to_owned(),
            expected: "optimizer state",
            reason,
        }
    }
}
