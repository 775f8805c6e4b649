//! A GGUF file of version 3 as it lies on disk: header, metadata, the table of the tensors, and their data.

use candle_core::quantized::gguf_file::{DEFAULT_ALIGNMENT, Value};
use tensor_files::{AtomicFile, InputFile};

use super::GgufType;
use crate::error::DecoderError;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;

/// A tensor that will be written.
#[derive(Debug)]
pub(in crate::export) struct Declared {
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    pub kind: GgufType,
}

/// A file whose tensors are declared first and then written in that order, as they come.
#[derive(Debug)]
pub(in crate::export) struct GgufWriter {
    file: AtomicFile,
    tensors: Vec<Declared>,
    /// Which of them is due.
    next: usize,
    /// Its bytes that are written.
    written: u64,
    /// Bytes of the whole file.
    len: u64,
}

impl GgufWriter {
    /// Writes everything before the tensors' data.
    pub fn begin(
        mut file: AtomicFile,
        metadata: &[(String, Value)],
        tensors: Vec<Declared>,
    ) -> Result<Self, DecoderError> {
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            string(&mut header, key);
            header.extend(kind_of(value).to_le_bytes());
            write_value(&mut header, value);
        }
        let mut offset = 0u64;
        for tensor in &tensors {
            string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for extent in tensor.shape.iter().rev() {
                header.extend((*extent as u64).to_le_bytes());
            }
            header.extend(tensor.kind.number().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += aligned(tensor.kind.byte_size(&tensor.shape));
        }
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
        file.write_all(&header)?;
        Ok(Self {
            file,
            tensors,
            next: 0,
            written: 0,
            len: header.len() as u64 + offset,
        })
    }

    /// Writes the next bytes of the tensor `name`: all of it, or a piece.
    ///
    /// # Errors
    /// Another tensor that is due, or more bytes than it takes; a file system that fails or is full.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), DecoderError> {
        let due = self.tensors.get(self.next);
        let Some(tensor) = due.filter(|tensor| tensor.name == name) else {
            let due = due.map_or("none", |tensor| &tensor.name);
            return Err(self.out_of_place(name, &format!("due is {due}")));
        };
        let size = tensor.kind.byte_size(&tensor.shape);
        let left = size - self.written;
        if bytes.len() as u64 > left {
            let reason = format!("{} bytes where {left} are left", bytes.len());
            return Err(self.out_of_place(name, &reason));
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == size {
            let padding = (aligned(size) - size) as usize;
            self.file
                .write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding])?;
            self.next += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Returns the file, of its whole length, to read what is written.
    pub fn so_far(&mut self) -> Result<InputFile, DecoderError> {
        Ok(self.file.so_far(self.len)?)
    }

    /// Returns the complete file, to be committed.
    pub fn finish(self) -> Result<AtomicFile, DecoderError> {
        match self.tensors.get(self.next) {
            None => Ok(self.file),
            Some(tensor) => Err(self.out_of_place(&tensor.name, "it is not written")),
        }
    }

    fn out_of_place(&self, name: &str, reason: &str) -> DecoderError {
        DecoderError::malformed(self.file.path(), format!("tensor `{name}`: {reason}"))
    }
}

fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(DEFAULT_ALIGNMENT)
}

fn string(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}

/// Returns the number of a value's type (gguf.h, `gguf_type`).
fn kind_of(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn write_value(header: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => header.push(*v),
        Value::I8(v) => header.extend(v.to_le_bytes()),
        Value::U16(v) => header.extend(v.to_le_bytes()),
        Value::I16(v) => header.extend(v.to_le_bytes()),
        Value::U32(v) => header.extend(v.to_le_bytes()),
        Value::I32(v) => header.extend(v.to_le_bytes()),
        Value::U64(v) => header.extend(v.to_le_bytes()),
        Value::I64(v) => header.extend(v.to_le_bytes()),
        Value::F32(v) => header.extend(v.to_le_bytes()),
        Value::F64(v) => header.extend(v.to_le_bytes()),
        Value::Bool(v) => header.push(u8::from(*v)),
        Value::String(v) => string(header, v),
        Value::Array(values) => {
            // Of an empty one the type says nothing.
            let kind = values.first().map_or(4, kind_of);
            header.extend(kind.to_le_bytes());
            header.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| write_value(header, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_written_whole_and_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let tensor = |name: &str| Declared {
            name: name.into(),
            shape: vec![3],
            kind: GgufType::F32,
        };
        let begin = || {
            let file = AtomicFile::create(&path).unwrap();
            GgufWriter::begin(file, &[], vec![tensor("a"), tensor("b")]).unwrap()
        };
        let error = begin().write("b", &[0; 12]).unwrap_err().to_string();
        assert!(error.contains("due is a"), "{error}");
        let error = begin().write("a", &[0; 13]).unwrap_err().to_string();
        assert!(error.contains("12 are left"), "{error}");
        let mut writer = begin();
        writer.write("a", &[1; 8]).unwrap();
        writer.write("a", &[1; 4]).unwrap();
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("`b`"), "{error}");
        assert!(!path.exists());

        let mut writer = begin();
        writer.write("a", &[1; 12]).unwrap();
        writer.write("b", &[2; 12]).unwrap();
        let len = writer.len;
        writer.finish().unwrap().commit().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, len);
        assert_eq!(bytes[bytes.len() - 64..][..12], [1; 12]);
        assert_eq!(bytes[bytes.len() - 32..][..12], [2; 12]);
    }
}
