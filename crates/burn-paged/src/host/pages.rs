//! Resident and streamed pages as one.

use std::path::PathBuf;

use super::buffer::Buffer;
use super::stream::Stream;
use crate::PagedError;
use crate::residency::Residency;

/// The pages of one optimizer on the host.
#[derive(Debug)]
pub(crate) struct HostPages {
    page_bytes: usize,
    path: PathBuf,
    /// In RAM, by page; streamed ones are `None`.
    resident: Vec<Option<Buffer>>,
    /// Made with the first page that is streamed.
    stream: Option<Stream>,
    moved: Moved,
}

/// Bytes that passed between the buffers and the pages' home.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl HostPages {
    pub fn new(path: PathBuf, page_bytes: usize) -> Self {
        Self {
            page_bytes,
            path,
            resident: Vec::new(),
            stream: None,
            moved: Moved::default(),
        }
    }

    /// The bytes of `page` that are in use, resident or brought in.
    pub fn load(
        &mut self,
        page: usize,
        used: &[usize],
        residency: &Residency,
    ) -> Result<&mut [u8], PagedError> {
        self.resident
            .resize_with(used.len().max(self.resident.len()), || None);
        if residency.is_resident(page) {
            let bytes = self.resident[page].get_or_insert_with(|| Buffer::zeros(0));
            bytes.grow(used[page]);
            return Ok(bytes);
        }
        let next = residency.next_streamed(Some(page));
        if self.stream.is_none() {
            self.stream = Some(Stream::open(&self.path, self.page_bytes)?);
        }
        let stream = self.stream.as_mut().expect("made above");
        let (bytes, came) = stream.load(
            (page, used[page]),
            used.len(),
            next.map(|next| (next, used[next])),
        )?;
        self.moved.bytes_in += if came { bytes.len() as u64 } else { 0 };
        Ok(bytes)
    }

    /// Notes that the page that was loaded last was changed.
    pub fn changed(&mut self, page: usize, used: &[usize], residency: &Residency) {
        if !residency.is_resident(page)
            && let Some(stream) = &mut self.stream
            && stream.changed()
        {
            self.moved.bytes_out += used[page] as u64;
        }
    }

    /// The bytes of a page, to be read outside of a step, which they are not counted for.
    pub fn peek(
        &mut self,
        page: usize,
        used: &[usize],
        residency: &Residency,
    ) -> Result<&[u8], PagedError> {
        let before = self.moved;
        self.load(page, used, residency)?;
        self.moved = before;
        self.load(page, used, residency).map(|bytes| &*bytes)
    }

    /// The same to be changed.
    pub fn poke(
        &mut self,
        page: usize,
        used: &[usize],
        residency: &Residency,
    ) -> Result<&mut [u8], PagedError> {
        let before = self.moved;
        self.load(page, used, residency)?;
        self.changed(page, used, residency);
        self.moved = before;
        self.load(page, used, residency)
    }

    /// Writes back what is changed and begins to read the first page of the next step.
    pub fn settle(&mut self, used: &[usize], residency: &Residency) -> Result<(), PagedError> {
        let next = residency.next_streamed(None);
        match &mut self.stream {
            Some(stream) => stream.settle(next.map(|next| (next, used[next]))),
            None => Ok(()),
        }
    }

    /// Whether the pages that are not resident are still what they were.
    pub fn check(&mut self) -> Result<(), PagedError> {
        self.stream.as_mut().map_or(Ok(()), Stream::check)
    }

    /// Makes a page stay or leave. Between steps only.
    pub fn migrate(
        &mut self,
        page: usize,
        stays: bool,
        used: &[usize],
        residency: &mut Residency,
    ) -> Result<(), PagedError> {
        self.resident
            .resize_with(used.len().max(self.resident.len()), || None);
        let before = self.moved;
        if stays {
            let mut bytes = Buffer::zeros(used[page]);
            bytes.copy_from_slice(self.load(page, used, residency)?);
            residency.set(page, true);
            self.resident[page] = Some(bytes);
        } else {
            residency.set(page, false);
            if let Some(mut bytes) = self.resident[page].take() {
                // A page that has grown since it was visited.
                bytes.grow(used[page]);
                self.load(page, used, residency)?.copy_from_slice(&bytes);
                self.changed(page, used, residency);
            }
        }
        self.settle(used, residency)?;
        self.moved = before;
        Ok(())
    }

    /// Bytes moved since this was asked last.
    pub fn take_moved(&mut self) -> Moved {
        std::mem::take(&mut self.moved)
    }
}
