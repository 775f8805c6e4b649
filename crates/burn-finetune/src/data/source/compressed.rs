use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Reads what is in gzip, all its members.
pub fn gzip(inner: impl Read + 'static) -> Box<dyn Read> {
    Box::new(Named {
        inner: MultiGzDecoder::new(BufReader::new(inner)),
        format: "gzip",
    })
}

/// Reads what is in zstd, all its frames.
pub fn zstd(inner: impl Read + 'static) -> Box<dyn Read> {
    Box::new(Named {
        inner: Zstd {
            inner: BufReader::new(inner),
            frame: None,
        },
        format: "zstd",
    })
}

/// Names the format where the data in it is damaged.
struct Named<R> {
    inner: R,
    format: &'static str,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let reason = if error.kind() == io::ErrorKind::UnexpectedEof {
                "it is cut off".to_owned()
            } else {
                error.to_string()
            };
            let format = self.format;
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the {format} data is damaged: {reason}; fetch the file again"),
            )
        })
    }
}

/// Frames of zstd, one after another.
///
/// A frame's decoder goes with it, so that its window is free before that of the next is taken.
struct Zstd<R> {
    inner: R,
    frame: Option<FrameDecoder>,
}

impl<R: BufRead> Zstd<R> {
    /// Opens the next frame; returns none at the end.
    fn open(&mut self) -> io::Result<Option<FrameDecoder>> {
        while !self.inner.fill_buf()?.is_empty() {
            let mut frame = FrameDecoder::new();
            match frame.reset(&mut self.inner) {
                Ok(()) => return Ok(Some(frame)),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(
                        &mut (&mut self.inner).take(u64::from(length)),
                        &mut io::sink(),
                    )?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(None)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.frame.is_none() {
                self.frame = self.open()?;
            }
            let Some(frame) = &mut self.frame else {
                return Ok(0);
            };
            while frame.can_collect() == 0 && !frame.is_finished() {
                frame
                    .decode_blocks(&mut self.inner, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            let read = frame.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.frame = None;
        }
    }
}
