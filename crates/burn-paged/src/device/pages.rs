//! Resident and streamed pages as one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use burn_core::tensor::Bytes;
use burn_cubecl::CubeDevice;
use cubecl::MemoryScope;
use cubecl::client::Client;
use cubecl::future::reader::read_sync;
use cubecl::server::{Handle, ServerError};
use qlora_cubecl::adamw;

use super::queue::{CopyQueue, Updates};
use crate::error::PagedError;
use crate::store::{MemoryUse, Moved, PageStore, Pages};

/// A place for a page on the device, with the queue of its copies.
#[derive(Debug, Clone)]
struct Buffer {
    memory: Handle,
    copies: CopyQueue,
}

/// A page in a buffer on the device.
#[derive(Debug)]
struct Loaded {
    page: usize,
    used: usize,
    buffer: Buffer,
    dirty: bool,
    /// Whether the buffer is zeros behind what is in use.
    whole: bool,
}

type Reading = Pin<Box<dyn Future<Output = Result<Vec<Bytes>, ServerError>> + Send>>;

/// The pages of one optimizer on one device.
pub(crate) struct DevicePages {
    page_bytes: usize,
    client: Client,
    device: CubeDevice,
    updates: Updates,
    /// As errors name it.
    name: String,
    /// On the device, by page; streamed ones are `None`.
    resident: Vec<Option<Handle>>,
    /// On the host, by page; none for a page of zeros and for one that is in a buffer.
    host: Vec<Option<Bytes>>,
    current: Option<Loaded>,
    ahead: Option<Loaded>,
    /// A page that is being read back.
    behind: Option<(usize, Reading)>,
    idle: Vec<Buffer>,
    /// The dynamic maps of 8-bit moments.
    maps: Option<Handle>,
    moved: Moved,
}

impl fmt::Debug for DevicePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevicePages")
            .field("device", &self.device)
            .field("pages", &self.host.len())
            .finish_non_exhaustive()
    }
}

impl DevicePages {
    /// Makes a store without pages on `device`, named `name`.
    pub fn new(client: Client, device: CubeDevice, name: String, page_bytes: usize) -> Self {
        Self {
            page_bytes,
            updates: Updates::new(client.clone(), &device),
            client,
            device,
            name,
            resident: Vec::new(),
            host: Vec::new(),
            current: None,
            ahead: None,
            behind: None,
            idle: Vec::new(),
            maps: None,
            moved: Moved::default(),
        }
    }

    /// Returns the number of 32-bit words of a page.
    pub fn page_words(&self) -> usize {
        self.page_bytes / 4
    }

    /// Returns the maps of 8-bit moments, uploaded once.
    pub fn maps(&mut self) -> Handle {
        let client = &self.client;
        self.maps
            .get_or_insert_with(|| adamw::dynamic_maps(client))
            .clone()
    }

    /// Returns a page on the device, resident or brought in, to be changed.
    ///
    /// # Errors
    /// A device that fails.
    pub fn load(&mut self, page: usize, pages: Pages<'_>) -> Result<Handle, PagedError> {
        self.begin(pages);
        if pages.is_resident(page) {
            if self.resident[page].is_none() {
                // An allocation of its own goes back to the driver when the page has to leave.
                let (client, bytes) = (&self.client, self.page_bytes);
                let handle = client.memory_dedicated_allocation((), |()| client.empty(bytes));
                // A page that stays may grow at any time.
                let (bytes, _) = self.take_host(page, self.page_bytes);
                self.write(&handle, bytes);
                self.resident[page] = Some(handle);
            }
            return Ok(self.resident[page].clone().expect("put there above"));
        }
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.page != page)
        {
            self.make_current(page, pages)?;
            self.moved.bytes_in += pages.used(page) as u64;
        }
        let grown = |current: &Loaded| current.used < pages.used(page) && !current.whole;
        if self.current.as_ref().is_some_and(grown) {
            self.write_back_page(page)?;
            let grown = self.upload(page, pages.used(page))?;
            self.updates.wait_for(grown.buffer.copies);
            self.current = Some(grown);
        }
        let current = self.current.as_mut().expect("the page was loaded");
        current.used = pages.used(page);
        if !std::mem::replace(&mut current.dirty, true) {
            self.moved.bytes_out += pages.used(page) as u64;
        }
        Ok(current.buffer.memory.clone())
    }

    /// Makes `page` the current one: the page before is written back behind, the one after comes ahead.
    fn make_current(&mut self, page: usize, pages: Pages<'_>) -> Result<(), PagedError> {
        let next = match self.ahead.take() {
            Some(ahead) if ahead.page == page => ahead,
            other => {
                if let Some(wrong) = other {
                    self.write_back(wrong)?;
                }
                // With a page in each buffer the one before has to go first.
                if let Some(previous) = self.current.take() {
                    self.write_back(previous)?;
                }
                self.upload(page, pages.used(page))?
            }
        };
        let copies = next.buffer.copies;
        // First, so that the page before does not wait for this one to come in.
        if let Some(previous) = self.current.replace(next) {
            self.write_back(previous)?;
        }
        self.updates.wait_for(copies);
        if let Some(next) = pages.next_streamed(Some(page)).filter(|next| *next != page) {
            self.ahead = Some(self.upload(next, pages.used(next))?);
        }
        Ok(())
    }

    /// Begins to read a page back, after the updates so far. Its buffer is free for whatever its queue does after that.
    fn write_back(&mut self, loaded: Loaded) -> Result<(), PagedError> {
        self.finish_write_back()?;
        let Buffer { memory, copies } = loaded.buffer.clone();
        self.updates.are_waited_for_by(copies);
        let unused = (self.page_bytes - loaded.used) as u64;
        let (client, written) = (self.client.clone(), memory.offset_end(unused));
        let mut reading: Reading = Box::pin(async move { client.read_async(vec![written]).await });
        // The first poll puts the copy into the queue, ahead of what the buffer is used for next.
        let mut context = Context::from_waker(Waker::noop());
        match copies.run(|| reading.as_mut().poll(&mut context)) {
            Poll::Ready(bytes) => self.keep(loaded.page, bytes)?,
            Poll::Pending => self.behind = Some((loaded.page, reading)),
        }
        self.idle.push(loaded.buffer);
        Ok(())
    }

    /// Waits for the page that is being read back.
    fn finish_write_back(&mut self) -> Result<(), PagedError> {
        if let Some((page, reading)) = self.behind.take() {
            self.keep(page, read_sync(reading))?;
        }
        Ok(())
    }

    fn keep(
        &mut self,
        page: usize,
        read: Result<Vec<Bytes>, ServerError>,
    ) -> Result<(), PagedError> {
        let bytes = read.map_err(failed)?.pop();
        self.host[page] = match self.device {
            CubeDevice::Cuda(_) | CubeDevice::Hip(_) => bytes,
            _ => bytes.map(|bytes| Bytes::from_bytes_vec(bytes.to_vec())),
        };
        Ok(())
    }

    /// Begins to write a page to an idle buffer.
    fn upload(&mut self, page: usize, used: usize) -> Result<Loaded, PagedError> {
        if self
            .behind
            .as_ref()
            .is_some_and(|(behind, _)| *behind == page)
        {
            self.finish_write_back()?;
        }
        let buffer = match self.idle.pop() {
            Some(buffer) => buffer,
            None => Buffer {
                memory: self.client.empty(self.page_bytes),
                copies: CopyQueue::new(&self.device),
            },
        };
        let (bytes, whole) = self.take_host(page, used);
        buffer.copies.run(|| self.write(&buffer.memory, bytes));
        Ok(Loaded {
            page,
            used,
            buffer,
            dirty: false,
            whole,
        })
    }

    /// Takes what the host has of a page. Says whether that is followed by zeros, which a page that has grown needs.
    fn take_host(&mut self, page: usize, used: usize) -> (Bytes, bool) {
        match self.host[page].take() {
            Some(bytes) if bytes.len() >= used => (bytes, false),
            written => {
                let mut whole = vec![0; self.page_bytes];
                if let Some(written) = written {
                    whole[..written.len()].copy_from_slice(&written);
                }
                (Bytes::from_bytes_vec(whole), true)
            }
        }
    }

    /// Writes the beginning of a page.
    fn write(&self, page: &Handle, bytes: Bytes) {
        let unused = (self.page_bytes - bytes.len()) as u64;
        self.client.write(&page.clone().offset_end(unused), bytes);
    }

    /// Returns the bytes of a page that is resident.
    fn resident_bytes(&mut self, page: usize) -> Result<Vec<u8>, PagedError> {
        let bytes = match self.resident[page].clone() {
            Some(handle) => self.client.read_one(handle).map_err(failed)?.to_vec(),
            None => self.host_bytes(page),
        };
        Ok(self.whole(bytes))
    }

    /// Returns the bytes of a page that is streamed.
    fn streamed_bytes(&mut self, page: usize) -> Result<Vec<u8>, PagedError> {
        self.write_back_page(page)?;
        let bytes = self.host_bytes(page);
        Ok(self.whole(bytes))
    }

    fn host_bytes(&self, page: usize) -> Vec<u8> {
        self.host[page]
            .as_ref()
            .map_or(Vec::new(), |bytes| bytes.to_vec())
    }

    /// Fills a page up with zeros.
    fn whole(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(self.page_bytes, 0);
        bytes
    }

    fn bytes(&mut self, page: usize, pages: Pages<'_>) -> Result<Vec<u8>, PagedError> {
        self.begin(pages);
        if pages.is_resident(page) {
            self.resident_bytes(page)
        } else {
            self.streamed_bytes(page)
        }
    }

    /// Writes one streamed page back to the host, wherever it is.
    fn write_back_page(&mut self, page: usize) -> Result<(), PagedError> {
        let holds = |loaded: &Option<Loaded>| loaded.as_ref().is_some_and(|it| it.page == page);
        if holds(&self.current)
            && let Some(current) = self.current.take()
        {
            self.write_back(current)?;
        }
        if holds(&self.ahead)
            && let Some(ahead) = self.ahead.take()
        {
            self.write_back(ahead)?;
        }
        self.finish_write_back()
    }

    /// Begins whatever is done with pages: makes room for them, on the calling thread's stream.
    fn begin(&mut self, pages: Pages<'_>) {
        self.updates.follow();
        let pages = pages.len().max(self.host.len());
        self.host.resize_with(pages, || None);
        self.resident.resize_with(pages, || None);
    }
}

impl PageStore for DevicePages {
    fn device(&self) -> &str {
        &self.name
    }

    fn peek(
        &mut self,
        page: usize,
        pages: Pages<'_>,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<(), PagedError> {
        read(&self.bytes(page, pages)?);
        Ok(())
    }

    fn poke(
        &mut self,
        page: usize,
        pages: Pages<'_>,
        change: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), PagedError> {
        let mut bytes = self.bytes(page, pages)?;
        change(&mut bytes);
        let bytes = Bytes::from_bytes_vec(bytes);
        if pages.is_resident(page) {
            let handle = self.load(page, pages)?;
            self.client.write(&handle, bytes);
        } else {
            self.host[page] = Some(bytes);
        }
        Ok(())
    }

    fn settle(&mut self, pages: Pages<'_>) -> Result<(), PagedError> {
        self.begin(pages);
        if let Some(current) = self.current.take() {
            self.write_back(current)?;
        }
        let next = pages.next_streamed(None);
        if self.ahead.as_ref().map(|ahead| ahead.page) != next {
            if let Some(wrong) = self.ahead.take() {
                self.write_back(wrong)?;
            }
            if let Some(next) = next {
                self.ahead = Some(self.upload(next, pages.used(next))?);
            }
        }
        self.finish_write_back()
    }

    fn migrate(&mut self, page: usize, pages: Pages<'_>) -> Result<(), PagedError> {
        self.begin(pages);
        let bytes = if pages.is_resident(page) {
            self.streamed_bytes(page)?
        } else {
            self.resident_bytes(page)?
        };
        self.host[page] = Some(Bytes::from_bytes_vec(bytes));
        self.resident[page] = None;
        if pages.is_resident(page) {
            self.load(page, pages)?;
        }
        self.settle(pages)
    }

    fn take_moved(&mut self) -> Moved {
        std::mem::take(&mut self.moved)
    }

    /// Returns what the device's memory report counts as reserved: its peak, since pools keep what they had. A device does
    /// not tell its limit.
    fn memory(&self) -> MemoryUse {
        let report = self.client.memory_report(MemoryScope::Device);
        let pools = report.streams.iter().map(|stream| stream.pools.usage());
        MemoryUse {
            peak: Some(pools.map(|usage| usage.bytes_reserved).sum()),
            limit: None,
        }
    }
}

impl Drop for DevicePages {
    /// A read that nobody waits for would leave its staging buffer mapped, which the runtime then fails on when it
    /// uses the buffer again.
    fn drop(&mut self) {
        let _ = self.finish_write_back();
    }
}

fn failed(error: ServerError) -> PagedError {
    PagedError::DeviceFailed {
        reason: error.to_string(),
    }
}
