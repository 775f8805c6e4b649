//! Two buffers through which pages pass: one is being updated while a thread writes the page before
//! back and reads the next one.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::buffer::Buffer;
use super::file::PageFile;
use crate::PagedError;

/// The page that is in a buffer.
#[derive(Debug)]
struct Loaded {
    page: usize,
    /// As long as a page; the first `used` bytes count.
    buffer: Buffer,
    used: usize,
    dirty: bool,
}

/// What the thread is to do with a buffer: write a page, then extend the file, then read another page into the buffer.
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

    /// Whether the file is still what it was.
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

    /// The `used` bytes of `page`, of which the file has room for `pages`. When another page has to make way, it is
    /// written back and `next`, a page and its bytes, read in its place, both behind.
    ///
    /// Says whether the page was brought in.
    pub fn load(
        &mut self,
        (page, used): (usize, usize),
        pages: usize,
        next: Option<(usize, usize)>,
    ) -> Result<(&mut [u8], bool), PagedError> {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.page == page)
        {
            let current = self.current.as_mut().expect("it is there");
            // A page grows while it is filled for the first time; what it grows by is zeros.
            current.used = used;
            return Ok((&mut current.buffer[..used], false));
        }
        self.wait()?;
        let loaded = match self.ahead.take() {
            Some(ahead) if ahead.page == page => ahead,
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
                    read: Some((page, used)),
                })?;
                self.ahead.take().expect("the page was read")
            }
        };
        let previous = self.current.replace(loaded);
        let next = next.filter(|(next, _)| *next != page);
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
        let current = self.current.as_mut().expect("it was put there above");
        current.used = used;
        Ok((&mut current.buffer[..used], true))
    }

    /// Marks the page that was loaded last as changed. Says whether it was not before.
    pub fn changed(&mut self) -> bool {
        self.current
            .as_mut()
            .is_some_and(|current| !std::mem::replace(&mut current.dirty, true))
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
