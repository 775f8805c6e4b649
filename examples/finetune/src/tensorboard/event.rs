//! The messages of an event file, as far as they are written: TensorFlow's `event.proto` and `summary.proto`. A field's tag
//! is its number, times 8, plus the kind of its value.

use quick_protobuf::{BytesReader, Result, Writer};

/// `tensorflow.Event`: its fields, and in the last three exactly one thing that happened.
mod tag {
    pub const WALL_TIME: u32 = 1 << 3 | 1;
    pub const STEP: u32 = 2 << 3;
    pub const FILE_VERSION: u32 = 3 << 3 | 2;
    pub const SUMMARY: u32 = 5 << 3 | 2;
    pub const SESSION_LOG: u32 = 7 << 3 | 2;
    /// `tensorflow.Summary`: its values.
    pub const VALUE: u32 = 1 << 3 | 2;
    /// `tensorflow.Summary.Value`: the name of its curve, and the number.
    pub const NAME: u32 = 1 << 3 | 2;
    pub const SIMPLE_VALUE: u32 = 2 << 3 | 5;
    /// Its tensor, where it is no number, and what shows it.
    pub const TENSOR: u32 = 8 << 3 | 2;
    pub const METADATA: u32 = 9 << 3 | 2;
    /// `tensorflow.TensorProto`.
    pub const DTYPE: u32 = 1 << 3;
    pub const SHAPE: u32 = 2 << 3 | 2;
    pub const STRING: u32 = 8 << 3 | 2;
    /// `tensorflow.TensorShapeProto`, and a dimension of it.
    pub const DIMENSION: u32 = 2 << 3 | 2;
    pub const SIZE: u32 = 1 << 3;
    /// `tensorflow.SummaryMetadata`, and its `PluginData`.
    pub const PLUGIN: u32 = 1 << 3 | 2;
    pub const PLUGIN_NAME: u32 = 1 << 3 | 2;
    /// `tensorflow.SessionLog`.
    pub const STATUS: u32 = 1 << 3;
}

/// `SessionLog.START`: whatever a reader has of this step and later ones is void.
const START: i32 = 1;
/// `DataType.DT_STRING`.
const STRINGS: i32 = 7;

/// An event as it is written.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The first of a file.
    Version,
    /// The beginning of a process that goes on with a step.
    Start(usize),
    /// The numbers of a step by the names of their curves.
    Scalars(usize, &'a [(&'a str, f64)]),
    /// Texts of a step by their names, as `SummaryWriter.add_text` writes them.
    Texts(usize, &'a [(&'a str, &'a str)]),
}

impl Event<'_> {
    /// Returns its message; `wall_time` is in seconds since 1970.
    ///
    /// # Errors
    /// None: there is room in memory.
    pub fn message(&self, wall_time: f64) -> Result<Vec<u8>> {
        let mut message = Vec::new();
        let mut to = Writer::new(&mut message);
        to.write_with_tag(tag::WALL_TIME, |to| to.write_double(wall_time))?;
        let step = |to: &mut Writer<&mut Vec<u8>>, step: usize| {
            to.write_with_tag(tag::STEP, |to| to.write_int64(step as i64))
        };
        match self {
            Self::Version => {
                to.write_with_tag(tag::FILE_VERSION, |to| to.write_string("brain.Event:2"))?;
            }
            Self::Start(next) => {
                step(&mut to, *next)?;
                let session =
                    within(|to| to.write_with_tag(tag::STATUS, |to| to.write_enum(START)));
                let session = session?;
                to.write_with_tag(tag::SESSION_LOG, |to| to.write_bytes(&session))?;
            }
            Self::Scalars(taken, scalars) => {
                step(&mut to, *taken)?;
                let values = scalars.iter().map(|(name, number)| {
                    within(|to| {
                        to.write_with_tag(tag::NAME, |to| to.write_string(name))?;
                        let number = *number as f32;
                        to.write_with_tag(tag::SIMPLE_VALUE, |to| to.write_float(number))
                    })
                });
                summary(&mut to, values)?;
            }
            Self::Texts(taken, texts) => {
                step(&mut to, *taken)?;
                summary(&mut to, texts.iter().map(|(name, text)| value(name, text)))?;
            }
        }
        Ok(message)
    }
}

/// Writes a summary of these values.
fn summary(
    to: &mut Writer<&mut Vec<u8>>,
    values: impl Iterator<Item = Result<Vec<u8>>>,
) -> Result<()> {
    let summary = within(|to| {
        for value in values {
            let value = value?;
            to.write_with_tag(tag::VALUE, |to| to.write_bytes(&value))?;
        }
        Ok(())
    })?;
    to.write_with_tag(tag::SUMMARY, |to| to.write_bytes(&summary))
}

/// Returns the value of a text: a tensor `[1]` of strings for the plugin `text`.
fn value(name: &str, text: &str) -> Result<Vec<u8>> {
    let dimension = within(|to| to.write_with_tag(tag::SIZE, |to| to.write_int64(1)))?;
    let shape = within(|to| to.write_with_tag(tag::DIMENSION, |to| to.write_bytes(&dimension)))?;
    let tensor = within(|to| {
        to.write_with_tag(tag::DTYPE, |to| to.write_enum(STRINGS))?;
        to.write_with_tag(tag::SHAPE, |to| to.write_bytes(&shape))?;
        to.write_with_tag(tag::STRING, |to| to.write_bytes(text.as_bytes()))
    })?;
    let plugin = within(|to| to.write_with_tag(tag::PLUGIN_NAME, |to| to.write_string("text")))?;
    let metadata = within(|to| to.write_with_tag(tag::PLUGIN, |to| to.write_bytes(&plugin)))?;
    within(|to| {
        to.write_with_tag(tag::NAME, |to| to.write_string(name))?;
        to.write_with_tag(tag::TENSOR, |to| to.write_bytes(&tensor))?;
        to.write_with_tag(tag::METADATA, |to| to.write_bytes(&metadata))
    })
}

/// Returns a message that lies in another.
fn within(write: impl FnOnce(&mut Writer<&mut Vec<u8>>) -> Result<()>) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    write(&mut Writer::new(&mut message))?;
    Ok(message)
}

/// What an event says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its step; 0 for the first of a file.
    pub step: usize,
    /// The names of the curves that it has numbers of, and of its texts.
    pub names: Vec<String>,
}

impl Head {
    /// Reads the message of an event.
    ///
    /// # Errors
    /// A message that is none.
    pub fn read(message: &[u8]) -> Result<Self> {
        let mut head = Self::default();
        let mut from = BytesReader::from_bytes(message);
        while !from.is_eof() {
            match from.next_tag(message)? {
                tag::STEP => head.step = from.read_int64(message)?.max(0) as usize,
                tag::SUMMARY => head.names = names(from.read_bytes(message)?)?,
                other => from.read_unknown(message, other)?,
            }
        }
        Ok(head)
    }
}

fn names(summary: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut from = BytesReader::from_bytes(summary);
    while !from.is_eof() {
        match from.next_tag(summary)? {
            tag::VALUE => {
                let value = from.read_bytes(summary)?;
                let mut from = BytesReader::from_bytes(value);
                while !from.is_eof() {
                    match from.next_tag(value)? {
                        tag::NAME => names.push(from.read_string(value)?.to_owned()),
                        other => from.read_unknown(value, other)?,
                    }
                }
            }
            other => from.read_unknown(summary, other)?,
        }
    }
    Ok(names)
}
