//! Text from a stream of bytes.

use std::io::{self, Read};

/// Bytes that are read at least.
const PIECE: usize = 1 << 6;

/// A text that is read as far as it is needed.
pub struct Utf8<'a> {
    reader: &'a mut dyn Read,
    /// What was read and not taken away.
    pub text: String,
    /// Whether that is all there is.
    pub ended: bool,
    /// The bytes of a letter that is not whole yet.
    open: Vec<u8>,
    /// Bytes read before these.
    position: u64,
}

impl<'a> Utf8<'a> {
    /// Returns one of which nothing is read.
    pub fn new(reader: &'a mut dyn Read) -> Self {
        Self {
            reader,
            text: String::new(),
            ended: false,
            open: Vec::new(),
            position: 0,
        }
    }

    /// Reads until there are `wanted` bytes of text or more, or the end has come. A byte-order mark at the beginning is left
    /// out.
    ///
    /// # Errors
    /// Those of the reader, and [`io::ErrorKind::InvalidData`] for bytes that are not UTF-8.
    pub fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while !self.ended && self.text.len() < wanted {
            let room = (wanted - self.text.len()).max(PIECE);
            let mut piece = Vec::with_capacity(room);
            (&mut *self.reader)
                .take(room as u64)
                .read_to_end(&mut piece)?;
            self.ended = piece.len() < room;
            self.add(&piece)?;
        }
        Ok(())
    }

    fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        let is_first = self.position == 0;
        let bytes = [&std::mem::take(&mut self.open), piece].concat();
        let (text, open) = match std::str::from_utf8(&bytes) {
            Ok(text) => (text, &[][..]),
            Err(error) => {
                let (text, rest) = bytes.split_at(error.valid_up_to());
                if error.error_len().is_some() || self.ended {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "byte {} is not UTF-8; save the text in this encoding",
                            self.position + text.len() as u64 + 1
                        ),
                    ));
                }
                (std::str::from_utf8(text).unwrap_or_default(), rest)
            }
        };
        let mark = if is_first { "\u{feff}" } else { "" };
        self.text += text.strip_prefix(mark).unwrap_or(text);
        self.position += text.len() as u64;
        self.open = open.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<String, String> {
        let mut bytes = bytes;
        let mut text = Utf8::new(&mut bytes);
        while !text.ended {
            let wanted = text.text.len() + 1;
            text.fill(wanted).map_err(|error| error.to_string())?;
        }
        Ok(text.text)
    }

    #[test]
    fn letters_across_pieces_are_whole() {
        for before in PIECE - 4..=PIECE + 1 {
            let text = format!("{}ä€𝄞é", "x".repeat(before));
            assert_eq!(read(text.as_bytes()).unwrap(), text);
            assert_eq!(read(format!("\u{feff}{text}").as_bytes()).unwrap(), text);
        }
        assert_eq!(read(b"").unwrap(), "");
        assert_eq!(read("a\u{feff}".as_bytes()).unwrap(), "a\u{feff}");
    }

    #[test]
    fn what_is_not_utf_8_is_found() {
        assert!(read(b"abc\xe9 d").unwrap_err().contains("byte 4 "));
        assert!(
            read("abcä".as_bytes().split_last().unwrap().1)
                .unwrap_err()
                .contains("byte 4 ")
        );
        let late = ["x".repeat(PIECE).as_bytes(), b"\xff"].concat();
        assert!(
            read(&late)
                .unwrap_err()
                .contains(&format!("byte {} ", PIECE + 1))
        );
    }
}
