//! The thread that reads weights ahead.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use super::WeightSource;
use crate::error::PagedError;
use crate::page_file::PageFile;

/// Weights in a page file begin where disks and systems begin to read.
const ALIGNMENT: usize = 4096;

/// Weights that are read, or wait in memory, ahead of the one in use: while one waits, the next is read.
const AHEAD: usize = 2;

/// Where the weights lie.
#[derive(Debug)]
pub(super) enum Home {
    /// In the memory of this process.
    Memory,
    /// Each where it came from if it can be read there, else in a page file, which is made for the first that cannot.
    Disk {
        path: PathBuf,
        file: Option<Arc<Mutex<PageFile>>>,
    },
}

/// One weight: where it lies, and what it was.
#[derive(Clone)]
struct Weight {
    place: Place,
    words: usize,
    /// Of the words when they were put or, of those that were not read then, when they were first read.
    checksum: Arc<OnceLock<u32>>,
}

#[derive(Clone)]
enum Place {
    Memory(Arc<[u32]>),
    Source(WeightSource),
    PageFile {
        file: Arc<Mutex<PageFile>>,
        page: usize,
    },
}

/// The weights and the thread that reads them.
pub(super) struct Reader {
    home: Home,
    weights: Vec<Weight>,
    /// Those that the thread was told to read and that were not taken yet, in that order.
    ahead: VecDeque<usize>,
    to_read: Option<Sender<Weight>>,
    read: Receiver<Result<Vec<u32>, String>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub fn new(home: Home) -> Self {
        let (to_read, weights) = channel::<Weight>();
        let (words, read) = channel();
        let thread = std::thread::spawn(move || {
            for weight in weights {
                if words.send(weight.read()).is_err() {
                    break;
                }
            }
        });
        Self {
            home,
            weights: Vec::new(),
            ahead: VecDeque::new(),
            to_read: Some(to_read),
            read,
            thread: Some(thread),
        }
    }

    /// Returns the number of weights.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Returns the number of words of a weight.
    pub fn words_of(&self, index: usize) -> usize {
        self.weights[index].words
    }

    /// Takes the next weight.
    ///
    /// # Errors
    /// A page file that cannot be made or written.
    pub fn put(&mut self, parts: &[&[u32]]) -> Result<(), PagedError> {
        let checksum = parts.iter().fold(0, |checksum, part| {
            crc32c::crc32c_append(checksum, bytemuck::cast_slice(part))
        });
        let place = match &mut self.home {
            Home::Memory => Place::Memory(parts.concat().into()),
            Home::Disk { path, file } => {
                let file = match file {
                    Some(file) => file.clone(),
                    None => file.insert(create(path)?).clone(),
                };
                let page = lock(&file).append(bytemuck::cast_slice(&parts.concat()))?;
                Place::PageFile { file, page }
            }
        };
        self.weights.push(Weight {
            place,
            words: parts.iter().map(|part| part.len()).sum(),
            checksum: Arc::new(checksum.into()),
        });
        Ok(())
    }

    /// Takes the next weight, whose `words` words `source` reads: at once into memory, or when it is used.
    ///
    /// # Errors
    /// The reason why it cannot be read at once.
    pub fn put_unread(&mut self, words: usize, source: WeightSource) -> Result<(), String> {
        let mut weight = Weight {
            place: Place::Source(source),
            words,
            checksum: Arc::default(),
        };
        if matches!(self.home, Home::Memory) {
            weight.place = Place::Memory(weight.read()?.into());
        }
        self.weights.push(weight);
        Ok(())
    }

    /// Returns a weight's words, and has those that are to be used after it read ahead.
    ///
    /// # Errors
    /// The reason why they cannot be read, or that they have changed.
    pub fn words(&mut self, index: usize, next: &VecDeque<usize>) -> Result<Vec<u32>, String> {
        // Whatever was read in vain goes.
        let words = loop {
            match self.ahead.pop_front() {
                Some(ahead) if ahead == index => break self.take(),
                Some(_) => drop(self.take()),
                None => {
                    self.tell(index);
                    break self.take();
                }
            }
        };
        let mut upcoming = next.iter().copied().skip(self.ahead.len());
        while self.ahead.len() < AHEAD
            && let Some(index) = upcoming.next()
        {
            self.ahead.push_back(index);
            self.tell(index);
        }
        words
    }

    fn tell(&self, index: usize) {
        let to_read = self
            .to_read
            .as_ref()
            .expect("it lasts as long as the thread");
        to_read.send(self.weights[index].clone()).expect(GOES_ON);
    }

    fn take(&self) -> Result<Vec<u32>, String> {
        self.read.recv().expect(GOES_ON)
    }
}

const GOES_ON: &str = "the thread goes on until it is told";

impl Drop for Reader {
    fn drop(&mut self) {
        self.to_read = None;
        if let Some(thread) = self.thread.take() {
            // A source that panicked has ended it.
            let _ = thread.join();
        }
    }
}

impl Weight {
    fn read(&self) -> Result<Vec<u32>, String> {
        let words = match &self.place {
            Place::Memory(words) => words.to_vec(),
            Place::Source(source) => source()?,
            Place::PageFile { file, page } => self
                .read_page(&mut lock(file), *page)
                .map_err(|error| error.to_string())?,
        };
        if words.len() != self.words {
            return Err(format!(
                "{} words were read, and it has {}",
                words.len(),
                self.words
            ));
        }
        let checksum = crc32c::crc32c(bytemuck::cast_slice(&words));
        if *self.checksum.get_or_init(|| checksum) != checksum {
            return Err(match &self.place {
                Place::PageFile { file, .. } => {
                    let path = lock(file).path().display().to_string();
                    format!("the page file {path} has been written to, or its disk fails")
                }
                Place::Memory(_) | Place::Source(_) => {
                    "its file has been changed since it was loaded, or its disk fails".into()
                }
            });
        }
        Ok(words)
    }

    fn read_page(&self, file: &mut PageFile, page: usize) -> Result<Vec<u32>, PagedError> {
        file.check()?;
        let mut words = vec![0; self.words];
        file.read(page, bytemuck::cast_slice_mut(&mut words))?;
        Ok(words)
    }
}

fn create(path: &Path) -> Result<Arc<Mutex<PageFile>>, PagedError> {
    Ok(Arc::new(Mutex::new(PageFile::create(path, ALIGNMENT)?)))
}

fn lock(file: &Mutex<PageFile>) -> MutexGuard<'_, PageFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}
