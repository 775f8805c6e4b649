//! Resident and streamed pages as one.

use std::path::PathBuf;

use super::buffer::Buffer;
use super::stream::Stream;
use crate::error::PagedError;
use crate::pool::PoolConfig;
use crate::process;
use crate::store::{MemoryUse, Moved, PageStore, Pages};

/// The pages of one optimizer on the host.
#[derive(Debug)]
pub(crate) struct HostPages {
    device: String,
    page_bytes: usize,
    path: PathBuf,
    /// In RAM, by page; streamed ones are `None`.
    resident: Vec<Option<Buffer>>,
    /// Made with the first page that is streamed.
    stream: Option<Stream>,
    moved: Moved,
}

impl HostPages {
    /// Makes a store without pages for `device`, as errors name it. The page file is made with the first page that is
    /// streamed.
    pub fn open(config: &PoolConfig, device: &str) -> Self {
        Self {
            device: device.into(),
            page_bytes: config.page_bytes,
            path: config.page_file.clone(),
            resident: Vec::new(),
            stream: None,
            moved: Moved::default(),
        }
    }

    /// Returns the bytes of `page` that are in use, resident or brought in, to be changed.
    ///
    /// # Errors
    /// A page file that fails.
    pub fn load(&mut self, page: usize, pages: Pages<'_>) -> Result<&mut [u8], PagedError> {
        self.bytes(page, pages, true)
    }

    fn bytes(
        &mut self,
        page: usize,
        pages: Pages<'_>,
        change: bool,
    ) -> Result<&mut [u8], PagedError> {
        if pages.is_resident(page) {
            self.grow(pages.len());
            let bytes = self.resident[page].get_or_insert_with(|| Buffer::zeros(0));
            bytes.grow(pages.used(page));
            return Ok(bytes);
        }
        self.streamed(page, pages, change)
    }

    /// Returns the bytes of a page from the file, whichever side it is to be on.
    fn streamed(
        &mut self,
        page: usize,
        pages: Pages<'_>,
        change: bool,
    ) -> Result<&mut [u8], PagedError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(Stream::open(&self.path, self.page_bytes)?),
        };
        let used = pages.used(page);
        let next = pages.next_streamed(Some(page));
        let next = next.map(|next| (next, pages.used(next)));
        let streamed = stream.load((page, used), pages.len(), next, change)?;
        if streamed.brought_in {
            self.moved.bytes_in += used as u64;
        }
        if streamed.to_write {
            self.moved.bytes_out += used as u64;
        }
        Ok(streamed.bytes)
    }

    fn grow(&mut self, pages: usize) {
        self.resident
            .resize_with(pages.max(self.resident.len()), || None);
    }
}

impl PageStore for HostPages {
    fn device(&self) -> &str {
        &self.device
    }

    fn check(&mut self) -> Result<(), PagedError> {
        self.stream.as_mut().map_or(Ok(()), Stream::check)
    }

    fn peek(
        &mut self,
        page: usize,
        pages: Pages<'_>,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<(), PagedError> {
        let before = self.moved;
        read(self.bytes(page, pages, false)?);
        self.moved = before;
        Ok(())
    }

    fn poke(
        &mut self,
        page: usize,
        pages: Pages<'_>,
        change: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), PagedError> {
        let before = self.moved;
        change(self.bytes(page, pages, true)?);
        self.moved = before;
        Ok(())
    }

    fn settle(&mut self, pages: Pages<'_>) -> Result<(), PagedError> {
        let next = pages.next_streamed(None);
        match &mut self.stream {
            Some(stream) => stream.settle(next.map(|next| (next, pages.used(next)))),
            None => Ok(()),
        }
    }

    fn migrate(&mut self, page: usize, pages: Pages<'_>) -> Result<(), PagedError> {
        self.grow(pages.len());
        let before = self.moved;
        if pages.is_resident(page) {
            let mut bytes = Buffer::zeros(pages.used(page));
            bytes.copy_from_slice(self.streamed(page, pages, false)?);
            self.resident[page] = Some(bytes);
        } else if let Some(mut bytes) = self.resident[page].take() {
            // A page that has grown since it was visited.
            bytes.grow(pages.used(page));
            self.streamed(page, pages, true)?.copy_from_slice(&bytes);
        }
        self.settle(pages)?;
        self.moved = before;
        Ok(())
    }

    fn take_moved(&mut self) -> Moved {
        std::mem::take(&mut self.moved)
    }

    /// Returns the process's memory, since its pages are in it.
    fn memory(&self) -> MemoryUse {
        process::memory()
    }
}
