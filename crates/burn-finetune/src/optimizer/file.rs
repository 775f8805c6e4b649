//! The optimizer's states as a safetensors file, written and read one factor at a time.

use crate::FinetuneError;
use burn_paged::{Moments, PagedState, StateDtype};
use burn_qlora::atomic::write_file;
use burn_qlora::tensor_file::write_header;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Longest header that is read, as the safetensors format has it.
const MAX_HEADER: u64 = 100_000_000;

/// The parts of a factor's moments and what each holds. Those of one dtype lie together, so that wide values
/// come before narrow ones and all are aligned.
const F32_PARTS: [&str; 2] = ["moment_1", "moment_2"];
const ABSMAX_PARTS: [&str; 2] = ["absmax_1", "absmax_2"];

/// Writes the states of the factors of these names.
pub(super) fn write(path: &Path, states: &[(String, &PagedState<2>)]) -> Result<(), FinetuneError> {
    let mut tensors = Vec::new();
    let mut end = 0;
    let mut push = |name: String, dtype: Dtype, shape: Vec<usize>| {
        let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let data_offsets = (end, end + size);
        end += size;
        let info = TensorInfo {
            dtype,
            shape,
            data_offsets,
        };
        tensors.push((name, info));
    };
    for (name, _) in states {
        push(format!("{name}.steps"), Dtype::I64, vec![1]);
    }
    for (name, state) in states {
        let shape = state.shape();
        let blocks = shape.iter().product::<usize>().div_ceil(StateDtype::BLOCK);
        let (parts, shape) = match state.dtype() {
            StateDtype::F32 => (F32_PARTS, shape.to_vec()),
            StateDtype::Dynamic8 => (ABSMAX_PARTS, vec![blocks]),
        };
        for part in parts {
            push(format!("{name}.{part}"), Dtype::F32, shape.clone());
        }
    }
    let eight_bit = || {
        let pairs = states.iter();
        pairs.filter(|(_, state)| state.dtype() == StateDtype::Dynamic8)
    };
    for (name, state) in eight_bit() {
        for part in F32_PARTS {
            push(format!("{name}.{part}"), Dtype::U8, state.shape().to_vec());
        }
    }
    let failed = |reason: String| FinetuneError::Write {
        path: path.to_owned(),
        reason,
    };
    let metadata = Metadata::new(None, tensors).map_err(|error| failed(error.to_string()))?;

    // What reading moments fails with is told as it is, not as a failure to write.
    let mut unread = None;
    let written = write_file(path, |file| {
        let mut file = io::BufWriter::with_capacity(1 << 20, file);
        write_header(&mut file, &metadata)?;
        for (_, state) in states {
            file.write_all(&(state.steps() as i64).to_le_bytes())?;
        }
        let mut moments = |state: &PagedState<2>| {
            state.moments().map_err(|error| {
                unread = Some(error);
                io::Error::other("the moments cannot be read")
            })
        };
        let mut floats = |values: Vec<f32>| {
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            file.write_all(&bytes)
        };
        for (_, state) in states {
            let (first, second) = match moments(state)? {
                Moments::F32 { moment_1, moment_2 } => (moment_1, moment_2),
                Moments::Dynamic8 {
                    absmax_1, absmax_2, ..
                } => (absmax_1, absmax_2),
            };
            floats(first)?;
            floats(second)?;
        }
        for (_, state) in eight_bit() {
            if let Moments::Dynamic8 {
                moment_1, moment_2, ..
            } = moments(state)?
            {
                file.write_all(&moment_1)?;
                file.write_all(&moment_2)?;
            }
        }
        file.flush()
    });
    match (written, unread) {
        (Err(_), Some(error)) => Err(error.into()),
        (written, _) => Ok(written?),
    }
}

/// A file of states, of which only the header is in memory.
pub(super) struct StateFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Where the values begin.
    begin: u64,
}

/// Where the parts of one factor are.
pub(super) struct Stored {
    steps: TensorInfo,
    moments: [TensorInfo; 2],
    absmax: Option<[TensorInfo; 2]>,
}

impl StateFile {
    /// Reads the header, and holds it against the length of the file.
    pub fn open(path: &Path) -> Result<Self, FinetuneError> {
        let failed = |source| FinetuneError::Read {
            path: path.to_owned(),
            source,
        };
        let broken = |reason: &str| malformed(path, reason.to_owned());
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut word = [0; 8];
        if len < 8 {
            return Err(broken("it is too short for a header"));
        }
        file.read_exact(&mut word).map_err(failed)?;
        let header = u64::from_le_bytes(word);
        if header > MAX_HEADER || header > len - 8 {
            return Err(broken("its header is longer than it"));
        }
        let mut text = vec![0; header as usize];
        file.read_exact(&mut text).map_err(failed)?;
        let metadata: Metadata =
            serde_json::from_slice(&text).map_err(|error| malformed(path, error.to_string()))?;
        let begin = 8 + header;
        if metadata.data_len() as u64 != len - begin {
            return Err(broken("it is not as long as its header says"));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            metadata,
            begin,
        })
    }

    /// Where the state of factor `name` is; `None` when there is none.
    pub fn find(
        &self,
        name: &str,
        shape: [usize; 2],
        dtype: StateDtype,
    ) -> Result<Option<Stored>, FinetuneError> {
        let Some(steps) = self.metadata.info(&format!("{name}.steps")) else {
            return Ok(None);
        };
        if steps.dtype != Dtype::I64 || steps.shape.iter().product::<usize>() != 1 {
            return Err(malformed(
                &self.path,
                format!("`{name}.steps` is not a count"),
            ));
        }
        let part = |part: &str, dtype: Dtype, shape: &[usize]| {
            let key = format!("{name}.{part}");
            let info = self
                .metadata
                .info(&key)
                .ok_or_else(|| malformed(&self.path, format!("there is no `{key}`")))?;
            if info.dtype != dtype || info.shape != shape {
                return Err(malformed(
                    &self.path,
                    format!(
                        "`{key}` is {} {:?}, but the optimizer needs {dtype} {shape:?}",
                        info.dtype, info.shape
                    ),
                ));
            }
            Ok(info.clone())
        };
        let pair = |parts: [&str; 2], dtype, shape: &[usize]| -> Result<_, FinetuneError> {
            Ok([part(parts[0], dtype, shape)?, part(parts[1], dtype, shape)?])
        };
        let blocks = [shape.iter().product::<usize>().div_ceil(StateDtype::BLOCK)];
        let (moments, absmax) = match dtype {
            StateDtype::F32 => (pair(F32_PARTS, Dtype::F32, &shape)?, None),
            StateDtype::Dynamic8 => (
                pair(F32_PARTS, Dtype::U8, &shape)?,
                Some(pair(ABSMAX_PARTS, Dtype::F32, &blocks)?),
            ),
        };
        Ok(Some(Stored {
            steps: steps.clone(),
            moments,
            absmax,
        }))
    }

    /// Whether the file holds `stored` and nothing else.
    pub fn check_count<'a>(
        &self,
        stored: impl Iterator<Item = &'a Stored>,
    ) -> Result<(), FinetuneError> {
        let used: usize = stored
            .map(|stored| if stored.absmax.is_some() { 5 } else { 3 })
            .sum();
        match used == self.metadata.tensors().len() {
            true => Ok(()),
            false => Err(malformed(
                &self.path,
                "it holds the state of other adapters too".into(),
            )),
        }
    }

    /// Reads the state of one factor: how often it was updated, and its moments.
    pub fn read(&mut self, stored: &Stored) -> Result<(usize, Moments), FinetuneError> {
        let steps: [u8; 8] = self
            .bytes(&stored.steps)?
            .try_into()
            .map_err(|_| malformed(&self.path, "a count of steps is not one number".into()))?;
        let steps = usize::try_from(i64::from_le_bytes(steps))
            .map_err(|_| malformed(&self.path, "a count of steps is negative".into()))?;
        let [first, second] = &stored.moments;
        let moments = match &stored.absmax {
            None => Moments::F32 {
                moment_1: self.floats(first)?,
                moment_2: self.floats(second)?,
            },
            Some([absmax_1, absmax_2]) => Moments::Dynamic8 {
                moment_1: self.bytes(first)?,
                absmax_1: self.floats(absmax_1)?,
                moment_2: self.bytes(second)?,
                absmax_2: self.floats(absmax_2)?,
            },
        };
        Ok((steps, moments))
    }

    fn floats(&mut self, info: &TensorInfo) -> Result<Vec<f32>, FinetuneError> {
        let bytes = self.bytes(info)?;
        let words = bytes.chunks_exact(4);
        Ok(words
            .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect())
    }

    fn bytes(&mut self, info: &TensorInfo) -> Result<Vec<u8>, FinetuneError> {
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.file
            .seek(SeekFrom::Start(self.begin + from as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|source| FinetuneError::Read {
                path: self.path.clone(),
                source,
            })?;
        Ok(bytes)
    }
}

fn malformed(path: &Path, reason: String) -> FinetuneError {
    FinetuneError::Malformed {
        path: path.to_owned(),
        expected: "optimizer state",
        reason,
    }
}
