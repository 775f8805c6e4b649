//! Pages where the update runs on a CubeCL device: resident ones on the device, the others in host memory.
//!
//! A page is in one place at a time. Copies go through the device's queue in order with the updates: the next page is
//! written to one buffer while the page in the other is updated, and the page before is read back behind.
//!
//! CUDA and ROCm read into pinned memory, from which they also write without a copy in between, so there the bytes that
//! came back are the page's home as they are. (That was compiled for CUDA and run on neither.) Elsewhere what a page is read
//! into is a staging buffer of the runtime's, which is given back.

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

use crate::PagedError;
use crate::residency::Residency;

/// A page in a buffer on the device.
#[derive(Debug)]
struct Loaded {
    page: usize,
    used: usize,
    buffer: Handle,
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
    /// On the device, by page; streamed ones are `None`.
    resident: Vec<Option<Handle>>,
    /// On the host, by page; none for a page of zeros and for one that is in a buffer.
    home: Vec<Option<Bytes>>,
    current: Option<Loaded>,
    ahead: Option<Loaded>,
    /// A page that is being read back.
    behind: Option<(usize, Reading)>,
    idle: Vec<Handle>,
    /// The dynamic maps of 8-bit moments.
    maps: Option<Handle>,
    moved: (u64, u64),
}

impl fmt::Debug for DevicePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevicePages")
            .field("device", &self.device)
            .field("pages", &self.home.len())
            .finish_non_exhaustive()
    }
}

impl DevicePages {
    pub fn new(client: Client, device: CubeDevice, page_bytes: usize) -> Self {
        Self {
            page_bytes,
            client,
            device,
            resident: Vec::new(),
            home: Vec::new(),
            current: None,
            ahead: None,
            behind: None,
            idle: Vec::new(),
            maps: None,
            moved: (0, 0),
        }
    }

    pub fn name(&self) -> String {
        format!("{:?}", self.device)
    }

    pub fn device(&self) -> &CubeDevice {
        &self.device
    }

    /// Bytes that the device's memory report counts as reserved: its peak, since pools keep what they had.
    pub fn device_bytes(&self) -> u64 {
        let report = self.client.memory_report(MemoryScope::Device);
        let pools = report.streams.iter().map(|stream| stream.pools.usage());
        pools.map(|usage| usage.bytes_reserved).sum()
    }

    /// The maps of 8-bit moments, uploaded once.
    pub fn maps(&mut self) -> Handle {
        let client = &self.client;
        self.maps
            .get_or_insert_with(|| adamw::dynamic_maps(client))
            .clone()
    }

    /// A page on the device, resident or brought in, to be changed.
    pub fn load(
        &mut self,
        page: usize,
        used: &[usize],
        residency: &Residency,
    ) -> Result<Handle, PagedError> {
        self.grow(used.len());
        if residency.is_resident(page) {
            if self.resident[page].is_none() {
                // An allocation of its own goes back to the driver when the page has to leave.
                let (client, bytes) = (&self.client, self.page_bytes);
                let handle = client.memory_dedicated_allocation((), |()| client.empty(bytes));
                // A page that stays may grow at any time.
                self.fill(&handle, page, self.page_bytes);
                self.resident[page] = Some(handle);
            }
            return Ok(self.resident[page].clone().expect("put there above"));
        }
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.page != page)
        {
            self.turn(page, used, residency)?;
            self.moved.0 += used[page] as u64;
        }
        let grown = |current: &Loaded| current.used < used[page] && !current.whole;
        if self.current.as_ref().is_some_and(grown) {
            self.recall(page)?;
            self.current = Some(self.bring(page, used[page])?);
        }
        let current = self.current.as_mut().expect("the page was loaded");
        current.used = used[page];
        if !std::mem::replace(&mut current.dirty, true) {
            self.moved.1 += used[page] as u64;
        }
        Ok(current.buffer.clone())
    }

    /// Makes `page` the current one: the page before goes home behind, the one after comes ahead.
    fn turn(
        &mut self,
        page: usize,
        used: &[usize],
        residency: &Residency,
    ) -> Result<(), PagedError> {
        let next = match self.ahead.take() {
            Some(ahead) if ahead.page == page => ahead,
            other => {
                if let Some(wrong) = other {
                    self.send_home(wrong)?;
                }
                // With a page in each buffer the one before has to go first.
                if let Some(previous) = self.current.take() {
                    self.send_home(previous)?;
                }
                self.bring(page, used[page])?
            }
        };
        if let Some(previous) = self.current.replace(next) {
            self.send_home(previous)?;
        }
        if let Some(next) = residency
            .next_streamed(Some(page))
            .filter(|next| *next != page)
        {
            self.ahead = Some(self.bring(next, used[next])?);
        }
        Ok(())
    }

    /// Begins to read a page back. Its buffer is free for whatever the queue does after that.
    fn send_home(&mut self, loaded: Loaded) -> Result<(), PagedError> {
        self.arrive()?;
        let unused = (self.page_bytes - loaded.used) as u64;
        let (client, written) = (
            self.client.clone(),
            loaded.buffer.clone().offset_end(unused),
        );
        let mut reading: Reading = Box::pin(async move { client.read_async(vec![written]).await });
        // The first poll puts the copy into the queue, ahead of what the buffer is used for next.
        match reading
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(bytes) => self.keep(loaded.page, bytes)?,
            Poll::Pending => self.behind = Some((loaded.page, reading)),
        }
        self.idle.push(loaded.buffer);
        Ok(())
    }

    /// Waits for the page that is being read back.
    fn arrive(&mut self) -> Result<(), PagedError> {
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
        self.home[page] = match self.device {
            CubeDevice::Cuda(_) | CubeDevice::Hip(_) => bytes,
            _ => bytes.map(|bytes| Bytes::from_bytes_vec(bytes.to_vec())),
        };
        Ok(())
    }

    /// Begins to write a page to an idle buffer.
    fn bring(&mut self, page: usize, used: usize) -> Result<Loaded, PagedError> {
        if self
            .behind
            .as_ref()
            .is_some_and(|(behind, _)| *behind == page)
        {
            self.arrive()?;
        }
        let buffer = match self.idle.pop() {
            Some(buffer) => buffer,
            None => self.client.empty(self.page_bytes),
        };
        let whole = self.fill(&buffer, page, used);
        Ok(Loaded {
            page,
            used,
            buffer,
            dirty: false,
            whole,
        })
    }

    /// Writes what the host has of a page. Says whether that was followed by zeros, which a page that has grown needs.
    fn fill(&mut self, buffer: &Handle, page: usize, used: usize) -> bool {
        let (bytes, whole) = match self.home[page].take() {
            Some(bytes) if bytes.len() >= used => (bytes, false),
            home => {
                let mut whole = vec![0; self.page_bytes];
                if let Some(home) = home {
                    whole[..home.len()].copy_from_slice(&home);
                }
                (Bytes::from_bytes_vec(whole), true)
            }
        };
        let unused = (self.page_bytes - bytes.len()) as u64;
        self.client.write(&buffer.clone().offset_end(unused), bytes);
        whole
    }

    /// Brings all streamed pages home and begins to write the first one ahead.
    pub fn settle(&mut self, used: &[usize], residency: &Residency) -> Result<(), PagedError> {
        self.grow(used.len());
        if let Some(current) = self.current.take() {
            self.send_home(current)?;
        }
        let next = residency.next_streamed(None);
        if self.ahead.as_ref().map(|ahead| ahead.page) != next {
            if let Some(wrong) = self.ahead.take() {
                self.send_home(wrong)?;
            }
            if let Some(next) = next {
                self.ahead = Some(self.bring(next, used[next])?);
            }
        }
        self.arrive()
    }

    /// A page's bytes on the host, to be read outside of a step.
    pub fn peek(
        &mut self,
        page: usize,
        used: &[usize],
        residency: &Residency,
    ) -> Result<Vec<u8>, PagedError> {
        self.grow(used.len());
        let mut bytes = if residency.is_resident(page) {
            match self.resident[page].clone() {
                Some(handle) => self.client.read_one(handle).map_err(failed)?.to_vec(),
                None => self.home[page]
                    .as_ref()
                    .map_or(Vec::new(), |home| home.to_vec()),
            }
        } else {
            self.recall(page)?;
            self.home[page]
                .as_ref()
                .map_or(Vec::new(), |home| home.to_vec())
        };
        bytes.resize(self.page_bytes, 0);
        Ok(bytes)
    }

    /// Changes a page's bytes outside of a step.
    pub fn poke(
        &mut self,
        page: usize,
        used: &[usize],
        residency: &Residency,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), PagedError> {
        let mut bytes = self.peek(page, used, residency)?;
        change(&mut bytes);
        match residency.is_resident(page) {
            true => {
                let handle = self.load(page, used, residency)?;
                self.client.write(&handle, Bytes::from_bytes_vec(bytes));
            }
            false => self.home[page] = Some(Bytes::from_bytes_vec(bytes)),
        }
        Ok(())
    }

    /// Makes a page stay or leave. Between steps only.
    pub fn migrate(
        &mut self,
        page: usize,
        stays: bool,
        used: &[usize],
        residency: &mut Residency,
    ) -> Result<(), PagedError> {
        let bytes = self.peek(page, used, residency)?;
        self.home[page] = Some(Bytes::from_bytes_vec(bytes));
        self.resident[page] = None;
        residency.set(page, stays);
        if stays {
            self.load(page, used, residency)?;
        }
        self.settle(used, residency)
    }

    /// Bytes brought in and written back since this was asked last.
    pub fn take_moved(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.moved)
    }

    /// Brings one streamed page home, wherever it is.
    fn recall(&mut self, page: usize) -> Result<(), PagedError> {
        let holds = |loaded: &Option<Loaded>| loaded.as_ref().is_some_and(|it| it.page == page);
        if holds(&self.current)
            && let Some(current) = self.current.take()
        {
            self.send_home(current)?;
        }
        if holds(&self.ahead)
            && let Some(ahead) = self.ahead.take()
        {
            self.send_home(ahead)?;
        }
        self.arrive()
    }

    fn grow(&mut self, pages: usize) {
        let pages = pages.max(self.home.len());
        self.home.resize_with(pages, || None);
        self.resident.resize_with(pages, || None);
    }
}

impl Drop for DevicePages {
    /// A read that nobody waits for would leave its staging buffer mapped, which the runtime then fails on when it
    /// uses the buffer again.
    fn drop(&mut self) {
        let _ = self.arrive();
    }
}

fn failed(error: ServerError) -> PagedError {
    PagedError::DeviceFailed {
        reason: error.to_string(),
    }
}
