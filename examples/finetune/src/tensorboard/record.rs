//! Records as TensorFlow's `RecordWriter` lays them out: the length of a message in 64 bits and the checksum of these, the
//! message and its checksum, all little-endian. A checksum is a CRC-32C, rotated and moved so that a record may lie in
//! another.

const LENGTH: usize = 8;
const CHECKSUM: usize = 4;

/// Returns a message in its frame.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(message.len() + LENGTH + 2 * CHECKSUM);
    record.extend_from_slice(&length);
    record.extend_from_slice(&checksum(&length).to_le_bytes());
    record.extend_from_slice(message);
    record.extend_from_slice(&checksum(message).to_le_bytes());
    record
}

/// A record of a file.
pub struct Record<'a> {
    /// Its message.
    pub message: &'a [u8],
    /// Where it ends in the file.
    pub end: usize,
}

/// The records of a file up to the first that is not whole.
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Returns those of `bytes`.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let rest = self.bytes.get(self.at..)?;
        let (length, rest) = rest.split_first_chunk::<LENGTH>()?;
        let (of_length, rest) = rest.split_first_chunk::<CHECKSUM>()?;
        if checksum(length) != u32::from_le_bytes(*of_length) {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (message, rest) = rest.split_at_checked(length)?;
        let (of_message, _) = rest.split_first_chunk::<CHECKSUM>()?;
        if checksum(message) != u32::from_le_bytes(*of_message) {
            return None;
        }
        self.at += LENGTH + CHECKSUM + length + CHECKSUM;
        Some(Record {
            message,
            end: self.at,
        })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}
