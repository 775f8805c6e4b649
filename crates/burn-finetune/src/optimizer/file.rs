//! The optimizer's states as a safetensors file, written and read one factor at a time.

use crate::error::FinetuneError;
use burn_paged::{Moments, PagedState, StateDtype};
use std::path::Path;
use tensor_files::{AtomicFile, Dtype, StoredTensor, TensorFile, TensorWriter};

/// The parts of a factor's moments, and the scales of those in 8 bits. Those of one dtype lie together, so that wide
/// values come before narrow ones and all are aligned.
const MOMENT_PARTS: [&str; 2] = ["moment_1", "moment_2"];
const ABSMAX_PARTS: [&str; 2] = ["absmax_1", "absmax_2"];

/// Writes the states of the factors of these names. The moments of one factor at a time are in memory.
pub(super) fn write(path: &Path, states: &[(String, &PagedState<2>)]) -> Result<(), FinetuneError> {
    let mut writer = TensorWriter::begin(AtomicFile::create(path)?, None, declare(states))?;
    for (name, state) in states {
        let steps = (state.steps() as i64).to_le_bytes();
        writer.write(&format!("{name}.steps"), &steps)?;
    }
    for (name, state) in states {
        let (parts, values) = match state.moments()? {
            Moments::F32 { moment_1, moment_2 } => (MOMENT_PARTS, [moment_1, moment_2]),
            Moments::Dynamic8 {
                absmax_1, absmax_2, ..
            } => (ABSMAX_PARTS, [absmax_1, absmax_2]),
        };
        for (part, values) in parts.into_iter().zip(values) {
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            writer.write(&format!("{name}.{part}"), &bytes)?;
        }
    }
    for (name, state) in eight_bit(states) {
        if let Moments::Dynamic8 {
            moment_1, moment_2, ..
        } = state.moments()?
        {
            for (part, codes) in MOMENT_PARTS.into_iter().zip([moment_1, moment_2]) {
                writer.write(&format!("{name}.{part}"), &codes)?;
            }
        }
    }
    Ok(writer.finish()?.commit()?)
}

/// Returns name, dtype and shape of every tensor, in the order of [`write`].
fn declare(states: &[(String, &PagedState<2>)]) -> Vec<(String, Dtype, Vec<usize>)> {
    let mut tensors = Vec::new();
    for (name, _) in states {
        tensors.push((format!("{name}.steps"), Dtype::I64, vec![1]));
    }
    for (name, state) in states {
        let shape = state.shape();
        let blocks = shape.iter().product::<usize>().div_ceil(StateDtype::BLOCK);
        let (parts, shape) = match state.dtype() {
            StateDtype::F32 => (MOMENT_PARTS, shape.to_vec()),
            StateDtype::Dynamic8 => (ABSMAX_PARTS, vec![blocks]),
        };
        for part in parts {
            tensors.push((format!("{name}.{part}"), Dtype::F32, shape.clone()));
        }
    }
    for (name, state) in eight_bit(states) {
        for part in MOMENT_PARTS {
            let shape = state.shape().to_vec();
            tensors.push((format!("{name}.{part}"), Dtype::U8, shape));
        }
    }
    tensors
}

fn eight_bit<'a, 'b>(
    states: &'a [(String, &'b PagedState<2>)],
) -> impl Iterator<Item = &'a (String, &'b PagedState<2>)> {
    states
        .iter()
        .filter(|(_, state)| state.dtype() == StateDtype::Dynamic8)
}

/// A file of states, of which only the header is in memory.
pub(super) struct StateFile(TensorFile);

/// The parts of one factor's state, not read yet.
pub(super) struct StoredState<'a> {
    steps: StoredTensor<'a>,
    moments: [StoredTensor<'a>; 2],
    absmax: Option<[StoredTensor<'a>; 2]>,
}

impl StateFile {
    /// Opens the file and validates its header.
    pub fn open(path: &Path) -> Result<Self, FinetuneError> {
        Ok(Self(TensorFile::open(path)?))
    }

    /// Returns the parts of the state of factor `name`, `None` when it has no state.
    pub fn find(
        &self,
        name: &str,
        shape: [usize; 2],
        dtype: StateDtype,
    ) -> Result<Option<StoredState<'_>>, FinetuneError> {
        let Some(steps) = self.0.tensor(&format!("{name}.steps")) else {
            return Ok(None);
        };
        if steps.dtype() != Dtype::I64 || steps.shape().iter().product::<usize>() != 1 {
            return Err(self.malformed(format!("`{name}.steps` is not a count")));
        }
        let part = |part: &str, dtype: Dtype, shape: &[usize]| {
            let key = format!("{name}.{part}");
            let stored = self
                .0
                .tensor(&key)
                .ok_or_else(|| self.malformed(format!("there is no `{key}`")))?;
            if stored.dtype() != dtype || stored.shape() != shape {
                return Err(self.malformed(format!(
                    "`{key}` is {} {:?}, but the optimizer needs {dtype} {shape:?}",
                    stored.dtype(),
                    stored.shape()
                )));
            }
            Ok(stored)
        };
        let pair = |parts: [&str; 2], dtype, shape: &[usize]| -> Result<_, FinetuneError> {
            Ok([part(parts[0], dtype, shape)?, part(parts[1], dtype, shape)?])
        };
        let blocks = [shape.iter().product::<usize>().div_ceil(StateDtype::BLOCK)];
        let (moments, absmax) = match dtype {
            StateDtype::F32 => (pair(MOMENT_PARTS, Dtype::F32, &shape)?, None),
            StateDtype::Dynamic8 => (
                pair(MOMENT_PARTS, Dtype::U8, &shape)?,
                Some(pair(ABSMAX_PARTS, Dtype::F32, &blocks)?),
            ),
        };
        Ok(Some(StoredState {
            steps,
            moments,
            absmax,
        }))
    }

    /// Checks that the file holds `stored` and nothing else.
    pub fn check_count<'a>(
        &self,
        stored: impl Iterator<Item = &'a StoredState<'a>>,
    ) -> Result<(), FinetuneError> {
        let used: usize = stored
            .map(|stored| if stored.absmax.is_some() { 5 } else { 3 })
            .sum();
        if used == self.0.len() {
            Ok(())
        } else {
            Err(self.malformed("it holds the state of other adapters too".into()))
        }
    }

    /// Checks that the most often updated of `stored` was so `steps` times. One may be updated less often, where it has
    /// no part in some rows.
    pub fn check_steps<'a>(
        &self,
        stored: impl Iterator<Item = &'a StoredState<'a>>,
        steps: usize,
    ) -> Result<(), FinetuneError> {
        let mut most = None;
        for stored in stored {
            most = most.max(Some(self.steps(stored)?));
        }
        match most {
            Some(most) if most != steps => Err(self.malformed(format!(
                "its moments are those of {most} steps, but the checkpoint is of {steps}"
            ))),
            _ => Ok(()),
        }
    }

    fn steps(&self, stored: &StoredState<'_>) -> Result<usize, FinetuneError> {
        let mut steps = [0; 8];
        stored.steps.read_into(&mut steps)?;
        usize::try_from(i64::from_le_bytes(steps))
            .map_err(|_| self.malformed("a count of steps is negative".into()))
    }

    /// Reads the state of one factor: how often it was updated, and its moments.
    pub fn read(&self, stored: &StoredState<'_>) -> Result<(usize, Moments), FinetuneError> {
        let steps = self.steps(stored)?;
        let [first, second] = &stored.moments;
        let moments = match &stored.absmax {
            None => Moments::F32 {
                moment_1: self.finite(first)?,
                moment_2: self.not_negative(second)?,
            },
            Some([absmax_1, absmax_2]) => Moments::Dynamic8 {
                moment_1: first.read()?,
                absmax_1: self.not_negative(absmax_1)?,
                moment_2: second.read()?,
                absmax_2: self.not_negative(absmax_2)?,
            },
        };
        Ok((steps, moments))
    }

    /// Reads numbers, which have to be finite.
    fn finite(&self, stored: &StoredTensor<'_>) -> Result<Vec<f32>, FinetuneError> {
        self.checked(stored, "a finite number", |value| value.is_finite())
    }

    /// Reads squares or scales, which have to be finite and not negative.
    fn not_negative(&self, stored: &StoredTensor<'_>) -> Result<Vec<f32>, FinetuneError> {
        let right = |value: f32| value.is_finite() && value >= 0.0;
        self.checked(stored, "a finite number, 0 or above", right)
    }

    fn checked(
        &self,
        stored: &StoredTensor<'_>,
        expected: &str,
        right: impl Fn(f32) -> bool,
    ) -> Result<Vec<f32>, FinetuneError> {
        let values = read_f32(stored)?;
        match values.iter().position(|value| !right(*value)) {
            None => Ok(values),
            Some(place) => Err(self.malformed(format!(
                "element {place} of `{}` is {}, not {expected}: the file is damaged",
                stored.name(),
                values[place]
            ))),
        }
    }

    fn malformed(&self, reason: String) -> FinetuneError {
        FinetuneError::Malformed {
            path: self.0.path().to_owned(),
            expected: "optimizer state",
            reason,
        }
    }
}

fn read_f32(stored: &StoredTensor<'_>) -> Result<Vec<f32>, FinetuneError> {
    let bytes = stored.read()?;
    let (words, _) = bytes.as_chunks();
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}
