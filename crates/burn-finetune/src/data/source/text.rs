use std::io::{self, BufRead, Read};

/// Bytes read at once.
const BUFFER: usize = 1 << 16;

/// The byte-order mark, which editors on Windows put at the start of a text.
pub const MARK: &[u8] = b"\xef\xbb\xbf";

/// Passes on a text without its byte-order mark, counts its lines, and refuses what is not UTF-8.
pub struct Utf8<R> {
    inner: R,
    buffer: Box<[u8]>,
    /// The bytes that were checked and not yet taken.
    start: usize,
    checked: usize,
    /// The end of the bytes that were read; behind `checked` a character lacks its last bytes.
    filled: usize,
    line: usize,
    is_new: bool,
    /// What is wrong behind the checked bytes.
    wrong: Option<u8>,
}

impl<R: Read> Utf8<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            checked: 0,
            filled: 0,
            line: 1,
            is_new: true,
            wrong: None,
        }
    }

    /// Returns the line of the next byte, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Returns the byte that was taken last.
    pub fn last(&self) -> Option<u8> {
        let place = self.start.checked_sub(1)?;
        self.buffer.get(place).copied()
    }

    /// Gives back the byte that was taken last.
    pub fn give_back(&mut self) {
        if let Some(byte) = self.last() {
            self.start -= 1;
            self.line -= usize::from(byte == b'\n');
        }
    }

    /// Leaves out what is left of the line of the byte that was taken last.
    pub fn skip_line(&mut self) -> io::Result<()> {
        let mut is_over = self.last() == Some(b'\n');
        while !is_over {
            let ready = self.fill_buf()?;
            let end = ready.iter().position(|byte| *byte == b'\n');
            is_over = end.is_some() || ready.is_empty();
            let amount = end.map_or(ready.len(), |end| end + 1);
            self.consume(amount);
        }
        Ok(())
    }

    /// Reads on until there is a byte to take, or none is left.
    fn refill(&mut self) -> io::Result<()> {
        while self.start == self.checked {
            if let Some(byte) = self.wrong {
                return Err(not_utf8(byte, self.line));
            }
            self.buffer.copy_within(self.checked..self.filled, 0);
            self.filled -= self.checked;
            (self.start, self.checked) = (0, 0);
            let read = self.inner.read(&mut self.buffer[self.filled..])?;
            self.filled += read;
            let read_bytes = &self.buffer[..self.filled];
            if self.is_new && read > 0 && self.filled < MARK.len() && MARK.starts_with(read_bytes) {
                continue;
            }
            self.check(read == 0);
            if self.is_new {
                self.is_new = false;
                if self.buffer[..self.checked].starts_with(MARK) {
                    self.start = MARK.len();
                }
            }
            if read == 0 {
                break;
            }
        }
        if self.start == self.checked && self.wrong.is_some() {
            return self.refill();
        }
        Ok(())
    }

    fn check(&mut self, is_end: bool) {
        match std::str::from_utf8(&self.buffer[..self.filled]) {
            Ok(_) => self.checked = self.filled,
            Err(error) => {
                self.checked = error.valid_up_to();
                if error.error_len().is_some() || is_end {
                    self.wrong = self.buffer.get(self.checked).copied();
                }
            }
        }
    }
}

impl<R: Read> BufRead for Utf8<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.checked {
            self.refill()?;
        }
        Ok(&self.buffer[self.start..self.checked])
    }

    fn consume(&mut self, amount: usize) {
        let end = (self.start + amount).min(self.checked);
        let taken = &self.buffer[self.start..end];
        self.line += taken.iter().filter(|byte| **byte == b'\n').count();
        self.start = end;
    }
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // As serde_json reads.
        if let [byte] = buffer
            && self.start < self.checked
        {
            *byte = self.buffer[self.start];
            self.start += 1;
            self.line += usize::from(*byte == b'\n');
            return Ok(1);
        }
        let ready = self.fill_buf()?;
        let amount = ready.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&ready[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

fn not_utf8(byte: u8, line: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "line {line} is not UTF-8 (it has the byte 0x{byte:02X}): save the file as UTF-8, say with `iconv -f windows-1252 -t utf-8`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let amount = self.0.len().min(1);
            buffer[..amount].copy_from_slice(&self.0[..amount]);
            self.0 = &self.0[amount..];
            Ok(amount)
        }
    }

    fn both(bytes: &[u8]) -> [io::Result<String>; 2] {
        let mut texts = [Ok(String::new()), Ok(String::new())];
        let mut whole = String::new();
        texts[0] = Utf8::new(bytes).read_to_string(&mut whole).map(|_| whole);
        let mut slow = String::new();
        texts[1] = Utf8::new(Slow(bytes))
            .read_to_string(&mut slow)
            .map(|_| slow);
        texts
    }

    #[test]
    fn a_mark_is_no_text() {
        for (bytes, expected) in [
            (&b"\xef\xbb\xbfab"[..], "ab"),
            (b"\xef\xbb\xbf", ""),
            (b"", ""),
            ("ä\u{feff}ö€😀".as_bytes(), "ä\u{feff}ö€😀"),
        ] {
            for text in both(bytes) {
                assert_eq!(text.unwrap(), expected);
            }
        }
        let long = "€".repeat(BUFFER);
        assert!(
            both(long.as_bytes())
                .into_iter()
                .all(|text| text.unwrap() == long)
        );
    }

    #[test]
    fn what_is_not_utf8_is_named_with_its_line() {
        for bytes in [&b"a\nb\xe9c"[..], b"a\n\xe2\x82", b"\xef\xbb\xbf\n\xff"] {
            for text in both(bytes) {
                let error = text.unwrap_err().to_string();
                assert!(error.starts_with("line 2 is not UTF-8"), "{error}");
            }
        }
    }
}
