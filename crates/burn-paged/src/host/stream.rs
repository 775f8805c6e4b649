//! Two buffers through which pages pass: one is being updated while a thread writes the page before
//! back and reads the next one.
//!
//! The [device's](crate::device) two buffers have the same names and share no transition with these. Here one job writes a page
//! and reads another into the same buffer, the file keeps what was read, so that a clean page or one that was
//! read ahead in vain is dropped, and the thread has the buffer meanwhile. There the queue orders everything, a buffer is
//! free as soon as its reading back is queued, and the host's copy leaves with the page, so that every page goes back.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::buffer::Buffer;
use crate::error::PagedError;
use crate::page_file::PageFile;

/// The page that is in a buffer.
#[derive(Debug)]
struct Loaded {
    page: usize,
    /// As long as a page; the first `used` bytes count.
    buffer: Buffer,
    used: usize,
    dirty: bool,
}

/// A buffer's task for the thread: write a page, then extend the file, then read another page into the buffer.
struct Job {
    buffer: Buffer,
    write: Option<(usize, usize)>,
    /// Pages that the file must have.
    extend: usize,
    check: bool,
    read: Option<(usize, usize)>,
}

struct Done {
    buffer: Buffer,
    read: Option<(usize, usize)>,
    result: Result<(), PagedError>,
}

/// The bytes of a page in a buffer.
pub(super) struct Streamed<'a> {
    pub bytes: &'a mut [u8],
    /// Whether the page was not in a buffer yet.
    pub brought_in: bool,
    /// Whether it is to be written back now and was not before.
    pub to_write: bool,
}

/// The page file behind two buffers.
#[derive(Debug)]
pub(super) struct Stream {
    page_bytes: usize,
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// A buffer that the thread has.
    busy: bool,
    current: Option<Loaded>,
    ahead: Option<Loaded>,
    idle: Vec<Buffer>,
}

impl Stream {
    /// Makes the page file and the thread that alone touches it from now on.
    pub fn open(path: &Path, page_bytes: usize) -> Result<Self, PagedError> {
        let mut file = PageFile::create(path, page_bytes)?;
        let (jobs, inbox) = channel::<Job>();
        let (outbox, done) = channel();
        let thread = std::thread::spawn(move || {
            for mut job in inbox {
                let result = work(&mut file, &mut job);
                let done = Done {
                    read: job.read,
                    buffer: job.buffer,
                    result,
                };
                if outbox.send(done).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            page_bytes,
            jobs: Some(jobs),
            done,
            thread: Some(thread),
            busy: false,
            current: None,
            ahead: None,
            idle: vec![Buffer::zeros(page_bytes), Buffer::zeros(page_bytes)],
        })
    }

    /// Checks that the file is still what it was.
    pub fn check(&mut self) -> Result<(), PagedError> {
        self.wait()?;
        let buffer = self.take_buffer();
        self.run(Job {
            buffer,
            write: None,
            extend: 0,
            check: true,
            read: None,
        })
    }

    /// Returns the `used` bytes of `page`, of which the file has room for `pages`; if they are to `change`, they are written
    /// back when the page has to make way. When another page has to make way for it, that is written back and `next`, a
    /// page and its bytes, read in its place, both behind.
    pub fn load(
        &mut self,
        (page, used): (usize, usize),
        pages: usize,
        next: Option<(usize, usize)>,
        change: bool,
    ) -> Result<Streamed<'_>, PagedError> {
        let here = self.current.as_ref().map(|current| current.page) == Some(page);
        if !here {
            self.make_current((page, used), pages, next)?;
        }
        let current = self.current.as_mut().expect("the page was loaded");
        // A page grows while it is filled for the first time; what it grows by is zeros.
        current.used = used;
        let was_dirty = current.dirty;
        current.dirty |= change;
        Ok(Streamed {
            bytes: &mut current.buffer[..used],
            brought_in: !here,
            to_write: change && !was_dirty,
        })
    }

    /// Makes `page` the current one.
    fn make_current(
        &mut self,
        page: (usize, usize),
        pages: usize,
        next: Option<(usize, usize)>,
    ) -> Result<(), PagedError> {
        self.wait()?;
        let loaded = match self.ahead.take() {
            Some(ahead) if ahead.page == page.0 => ahead,
            other => {
                let buffer = match other {
                    Some(wrong) => wrong.buffer,
                    None => self.take_buffer(),
                };
                self.run(Job {
                    buffer,
                    write: None,
                    extend: pages,
                    check: false,
                    read: Some(page),
                })?;
                self.ahead.take().expect("the page was read")
            }
        };
        let previous = self.current.replace(loaded);
        let next = next.filter(|(next, _)| *next != page.0);
        if let Some(previous) = previous {
            // The page before may be the one that comes next; it is read back as any other.
            self.send(Job {
                write: previous.dirty.then_some((previous.page, previous.used)),
                buffer: previous.buffer,
                extend: pages,
                check: false,
                read: next,
            })?;
        } else if let Some(next) = next {
            let buffer = self.take_buffer();
            self.send(Job {
                buffer,
                write: None,
                extend: pages,
                check: false,
                read: Some(next),
            })?;
        }
        Ok(())
    }

    /// Writes back what is changed, waits for it, and begins to read `next`.
    pub fn settle(&mut self, next: Option<(usize, usize)>) -> Result<(), PagedError> {
        self.wait()?;
        if let Some(current) = self.current.take() {
            self.run(Job {
                write: current.dirty.then_some((current.page, current.used)),
                buffer: current.buffer,
                extend: 0,
                check: false,
                read: None,
            })?;
        }
        match (next, &self.ahead) {
            (Some(next), Some(ahead)) if ahead.page == next.0 => {}
            (Some(next), _) => {
                let buffer = match self.ahead.take() {
                    Some(wrong) => wrong.buffer,
                    None => self.take_buffer(),
                };
                self.send(Job {
                    buffer,
                    write: None,
                    extend: 0,
                    check: false,
                    read: Some(next),
                })?;
            }
            (None, _) => {
                if let Some(ahead) = self.ahead.take() {
                    self.idle.push(ahead.buffer);
                }
            }
        }
        Ok(())
    }

    fn take_buffer(&mut self) -> Buffer {
        self.idle
            .pop()
            .or_else(|| self.ahead.take().map(|ahead| ahead.buffer))
            .unwrap_or_else(|| Buffer::zeros(self.page_bytes))
    }

    fn run(&mut self, job: Job) -> Result<(), PagedError> {
        self.send(job)?;
        self.wait()
    }

    fn send(&mut self, job: Job) -> Result<(), PagedError> {
        self.wait()?;
        let jobs = self.jobs.as_ref().expect("there until it is dropped");
        jobs.send(job).map_err(|_| stopped())?;
        self.busy = true;
        Ok(())
    }

    /// Waits for the thread, if it is at work.
    fn wait(&mut self) -> Result<(), PagedError> {
        if !std::mem::take(&mut self.busy) {
            return Ok(());
        }
        let done = self.done.recv().map_err(|_| stopped())?;
        done.result?;
        match done.read {
            Some((page, used)) => {
                self.ahead = Some(Loaded {
                    page,
                    buffer: done.buffer,
                    used,
                    dirty: false,
                });
            }
            None => self.idle.push(done.buffer),
        }
        Ok(())
    }
}

impl Drop for Stream {
    /// Waits for the thread, so that the file is gone when the optimizer is.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(file: &mut PageFile, job: &mut Job) -> Result<(), PagedError> {
    if job.check {
        file.check()?;
    }
    if let Some((page, used)) = job.write {
        file.write(page, &job.buffer[..used])?;
    }
    file.extend(job.extend)?;
    if let Some((page, used)) = job.read {
        file.read(page, &mut job.buffer[..used])?;
        // What the page grows by later must be zeros.
        job.buffer[used..].fill(0);
    }
    Ok(())
}

fn stopped() -> PagedError {
    PagedError::DeviceFailed {
        reason: "the thread that reads and writes pages has stopped".into(),
    }
}
