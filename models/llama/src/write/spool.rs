//! A safetensors file written as its tensors come.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::LlamaError;

/// Collects tensors in one part file per element size, widest first in the end: torch reads a tensor in
/// place and needs it aligned, and the sizes are not known before every tensor has come.
pub(super) struct Spool {
    parts: [Part; 3],
}

struct Part {
    path: PathBuf,
    file: BufWriter<File>,
    tensors: Vec<(String, Dtype, Vec<usize>, usize)>,
}

impl Spool {
    /// Part files in `directory`, which must exist.
    pub(super) fn new(directory: &Path) -> Result<Self, LlamaError> {
        let part = |width: usize| {
            let path = directory.join(format!("model.{width}.part"));
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(LlamaError::io(&path))?;
            Ok::<_, LlamaError>(Part {
                path,
                file: BufWriter::with_capacity(1 << 20, file),
                tensors: Vec::new(),
            })
        };
        Ok(Self {
            parts: [part(4)?, part(2)?, part(1)?],
        })
    }

    pub(super) fn push(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: &[u8],
    ) -> Result<(), LlamaError> {
        let part = match dtype {
            Dtype::F32 => &mut self.parts[0],
            Dtype::F16 | Dtype::BF16 => &mut self.parts[1],
            _ => &mut self.parts[2],
        };
        part.file
            .write_all(bytes)
            .map_err(LlamaError::io(&part.path))?;
        part.tensors.push((name, dtype, shape, bytes.len()));
        Ok(())
    }

    /// Joins header and parts into `path`, syncs it and removes the parts.
    pub(super) fn finish(mut self, path: &Path) -> Result<(), LlamaError> {
        let header = self.header(path)?;
        let mut file = File::create_new(path).map_err(LlamaError::io(path))?;
        file.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| file.write_all(&header))
            .map_err(LlamaError::io(path))?;
        for part in &mut self.parts {
            part.file.flush().map_err(LlamaError::io(&part.path))?;
            let source = part.file.get_mut();
            source
                .seek(SeekFrom::Start(0))
                .map_err(LlamaError::io(&part.path))?;
            std::io::copy(source, &mut file).map_err(LlamaError::io(path))?;
            std::fs::remove_file(&part.path).map_err(LlamaError::io(&part.path))?;
        }
        file.sync_all().map_err(LlamaError::io(path))
    }

    fn header(&mut self, path: &Path) -> Result<Vec<u8>, LlamaError> {
        let mut start = 0;
        let mut infos = Vec::new();
        for (name, dtype, shape, bytes) in self
            .parts
            .iter_mut()
            .flat_map(|part| part.tensors.drain(..))
        {
            let data_offsets = (start, start + bytes);
            start += bytes;
            infos.push((
                name,
                TensorInfo {
                    dtype,
                    shape,
                    data_offsets,
                },
            ));
        }
        let invalid =
            |error: String| LlamaError::malformed(path, format!("cannot be written: {error}"));
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata =
            Metadata::new(Some(format), infos).map_err(|error| invalid(error.to_string()))?;
        let mut header =
            serde_json::to_vec(&metadata).map_err(|error| invalid(error.to_string()))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    }
}
