//! A GGUF header: the checks that come before candle's reader parses its metadata, and the table of its tensors, some of
//! whose types candle does not know.
//!
//! candle checks counts and lengths against the file's size. This pass refuses what it would divide by,
//! multiply without a check, or keep in far more memory than the file has: each array element becomes an enum
//! of 32 bytes, so a long array of bytes would take 32 times its size.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::gguf_file::DEFAULT_ALIGNMENT;

use super::tensor_type::{TensorType, name_of_unread};
use crate::error::DecoderError;

/// More elements than any vocabulary or list of merges has.
const MAX_ARRAY: u64 = 1 << 22;
/// Elements of all arrays together.
const MAX_ELEMENTS: u64 = 1 << 24;
const MAX_DIMENSIONS: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A tensor as a header describes it.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    pub(super) kind: TensorType,
    /// Rows first.
    pub(super) shape: Vec<usize>,
    /// From the beginning of the data.
    pub(super) offset: u64,
}

/// What a header says of the tensors.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) tensors: HashMap<String, TensorInfo>,
    /// Where the data begin.
    pub(super) data: u64,
    /// Where the number of tensors is.
    count: Range<u64>,
}

/// Walks the header once and keeps the tensors of it.
pub(super) fn read(path: &Path, input: impl Read + Seek, len: u64) -> Result<Table, DecoderError> {
    let mut scan = Scan {
        input: BufReader::new(input),
        left: len,
        len,
        wide: true,
        elements: 0,
        alignment: DEFAULT_ALIGNMENT,
    };
    scan.header().map_err(|error| match error {
        Fault::Header(reason) => {
            DecoderError::malformed(path, format!("invalid GGUF header: {reason}"))
        }
        Fault::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            DecoderError::malformed(path, "truncated in the GGUF header; fetch it again")
        }
        Fault::Read(source) => DecoderError::Io {
            path: path.to_path_buf(),
            source,
        },
    })
}

enum Fault {
    Read(io::Error),
    Header(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

struct Scan<R> {
    input: BufReader<R>,
    /// Bytes of the file not yet read.
    left: u64,
    len: u64,
    /// Whether lengths have 64 bits, which they do from version 2 on.
    wide: bool,
    elements: u64,
    /// What the beginning of the data is a multiple of.
    alignment: u64,
}

impl<R: Read + Seek> Scan<R> {
    fn header(&mut self) -> Result<Table, Fault> {
        let magic = self.bytes::<4>()?;
        if &magic != b"GGUF" {
            return Err(self.other_file(magic)?);
        }
        self.wide = match self.u32()? {
            1 => false,
            2 | 3 => true,
            version => {
                return Err(Fault::Header(format!(
                    "version {version} is not read (or the file is big-endian); versions 1 to 3 are"
                )));
            }
        };
        let start = self.position();
        let tensors = self.length()?;
        let count = start..self.position();
        let entries = self.length()?;
        // The least that an entry and a tensor take: lengths, types, one byte of value, an offset.
        let prefix = if self.wide { 8 } else { 4 };
        let least = entries
            .saturating_mul(prefix + 5)
            .saturating_add(tensors.saturating_mul(prefix + 16));
        if least > self.left {
            return Err(Fault::Header(format!(
                "it claims {tensors} tensors and {entries} metadata entries, but the file has only {} bytes left; \
                 truncated or damaged, fetch it again",
                self.left
            )));
        }
        let mut keys = HashSet::new();
        for _ in 0..entries {
            self.entry(&mut keys)?;
        }
        let mut known = HashMap::new();
        for _ in 0..tensors {
            self.tensor(&mut known)?;
        }
        Ok(Table {
            tensors: known,
            data: self.position().next_multiple_of(self.alignment),
            count,
        })
    }

    fn position(&self) -> u64 {
        self.len - self.left
    }

    /// Returns the fault of a file that begins with `magic`.
    fn other_file(&mut self, magic: [u8; 4]) -> Result<Fault, Fault> {
        let mut start = magic.to_vec();
        Read::by_ref(&mut self.input)
            .take(20)
            .read_to_end(&mut start)?;
        Ok(Fault::Header(match tensor_files::recognize(&start) {
            Some(what) => what.into(),
            None => format!("it begins with {magic:?} instead of `GGUF`"),
        }))
    }

    fn entry(&mut self, keys: &mut HashSet<Vec<u8>>) -> Result<(), Fault> {
        let key = self.name()?;
        let kind = self.u32()?;
        if !keys.insert(key.clone()) {
            return Err(Fault::Header(format!(
                "key `{}` is listed twice",
                String::from_utf8_lossy(&key)
            )));
        }
        if key == b"general.alignment" {
            // Other integer types would be read differently by different readers.
            let alignment = if kind == 4 { self.u32()? } else { 0 };
            if !alignment.is_power_of_two() {
                return Err(Fault::Header(format!(
                    "`general.alignment` must be a u32 power of two, found type {kind}, value {alignment}"
                )));
            }
            self.alignment = u64::from(alignment);
            return Ok(());
        }
        self.value(kind, &key)
    }

    fn value(&mut self, kind: u32, key: &[u8]) -> Result<(), Fault> {
        match kind {
            STRING => self.string().map(drop),
            ARRAY => {
                let element = self.u32()?;
                let count = self.length()?;
                self.elements = self.elements.saturating_add(count);
                if count > MAX_ARRAY || self.elements > MAX_ELEMENTS {
                    return Err(Fault::Header(format!(
                        "`{}` claims {count} elements, more than any vocabulary has",
                        String::from_utf8_lossy(key)
                    )));
                }
                match element {
                    // Nothing of a LLaMA is a list of lists.
                    ARRAY => Err(Fault::Header(format!(
                        "`{}` is an array of arrays",
                        String::from_utf8_lossy(key)
                    ))),
                    STRING => (0..count).try_for_each(|_| self.string().map(drop)),
                    _ => self.skip(count.saturating_mul(size_of_value(element, key)?)),
                }
            }
            _ => self.skip(size_of_value(kind, key)?),
        }
    }

    fn tensor(&mut self, known: &mut HashMap<String, TensorInfo>) -> Result<(), Fault> {
        let name = self.name()?;
        let name = String::from_utf8_lossy(&name).into_owned();
        let dimensions = self.u32()?;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(Fault::Header(format!(
                "tensor `{name}` has {dimensions} dimensions, expected 1 to 4"
            )));
        }
        let mut elements = Some(1u64);
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let extent = self.length()?;
            elements = elements.and_then(|elements| elements.checked_mul(extent));
            shape.insert(0, usize::try_from(extent).unwrap_or(usize::MAX));
        }
        // Below 2^56, no later product with a block's size can overflow.
        if elements.is_none_or(|elements| elements >= 1 << 56) {
            return Err(Fault::Header(format!(
                "tensor `{name}` claims more elements than any file holds"
            )));
        }
        let number = self.u32()?;
        let Some(kind) = TensorType::of(number) else {
            return Err(Fault::Header(format!(
                "tensor `{name}` is of type {number}{}, which is not read; convert it to F16, BF16, Q8_0 or a K-quant",
                name_of_unread(number)
            )));
        };
        let offset = u64::from_le_bytes(self.bytes()?);
        let info = TensorInfo {
            kind,
            shape,
            offset,
        };
        if known.contains_key(&name) {
            return Err(Fault::Header(format!("tensor `{name}` is listed twice")));
        }
        known.insert(name, info);
        Ok(())
    }

    /// Reads a name without the zeros that some writers end it with, as candle does.
    fn name(&mut self) -> Result<Vec<u8>, Fault> {
        let mut name = self.string()?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn string(&mut self) -> Result<Vec<u8>, Fault> {
        let len = self.length()?;
        if len > self.left {
            return Err(Fault::Header(format!(
                "a string claims {len} bytes, the file has {} left",
                self.left
            )));
        }
        let mut text = vec![0; len as usize];
        self.input.read_exact(&mut text)?;
        self.left -= len;
        Ok(text)
    }

    fn length(&mut self) -> Result<u64, Fault> {
        if self.wide {
            Ok(u64::from_le_bytes(self.bytes()?))
        } else {
            Ok(u64::from(self.u32()?))
        }
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.left = self.left.saturating_sub(N as u64);
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), Fault> {
        if count > self.left {
            return Err(Fault::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= count;
        let count =
            i64::try_from(count).map_err(|_| Fault::Read(io::ErrorKind::UnexpectedEof.into()))?;
        self.input.seek_relative(count)?;
        Ok(())
    }
}

fn size_of_value(kind: u32, key: &[u8]) -> Result<u64, Fault> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(Fault::Header(format!(
            "`{}` has the unknown value type {kind}",
            String::from_utf8_lossy(key)
        ))),
    }
}

impl Table {
    /// Returns `file` as one without tensors, for a reader that does not know all of their types.
    pub(super) fn hidden_in<R: Read + Seek>(&self, file: R) -> WithoutTensors<R> {
        WithoutTensors {
            file,
            position: 0,
            count: self.count.clone(),
        }
    }
}

/// A file, read from its beginning on, whose number of tensors reads as 0.
pub(super) struct WithoutTensors<R> {
    file: R,
    position: u64,
    count: Range<u64>,
}

impl<R: Read> Read for WithoutTensors<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        for (byte, place) in buffer[..read].iter_mut().zip(self.position..) {
            if self.count.contains(&place) {
                *byte = 0;
            }
        }
        self.position += read as u64;
        Ok(read)
    }
}

impl<R: Seek> Seek for WithoutTensors<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.file.seek(to)?;
        Ok(self.position)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.position)
    }
}
