//! Event files of TensorBoard: the curves and samples of a run while it goes.

/// The messages in them.
mod event;
/// The frames that messages lie in.
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, ensure};
use burn_finetune::{EvalResult, Evaluation, StepReport};

use crate::log::Resumed;
use crate::samples::{Sample, SampleReport};
use event::{Event, Head};
use record::{Records, framed};

/// The folder for them, in a run's.
pub const FOLDER: &str = "tensorboard";
/// How the names of event files begin; TensorBoard goes by that, and reads those of a folder in the order of their names.
const PREFIX: &str = "events.out.tfevents.";
/// How those of this program end.
const SUFFIX: &str = ".burn-qlora";
/// The beginning of the tags of a step.
const TRAINING: &str = "train/";
/// The beginning of the tags of an evaluation.
const EVALUATION: &str = "eval/";
/// The beginning of the tags of samples.
const SAMPLES: &str = "samples/";
/// The end of a tag of a text, as SummaryWriter's `add_text` gives it.
const TEXT: &str = "/text_summary";

/// An event file that is being written.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

/// Checks that a new run can write its events to the folder `dir`: TensorBoard takes a folder for one run.
///
/// # Errors
/// Events that are there already.
pub fn check_vacant(dir: &Path) -> Result<()> {
    ensure!(
        event_files(dir)?.is_empty(),
        "--tensorboard {} holds the events of another run; name another folder",
        dir.display()
    );
    Ok(())
}

/// Removes the folder of a run that goes because nothing was saved in it.
pub fn remove(dir: &Path) {
    // What cannot be removed changes nothing about a run that has failed already.
    for file in event_files(dir).unwrap_or_default() {
        let _ = fs::remove_file(file);
    }
    let _ = fs::remove_dir(dir);
}

impl EventFile {
    /// Begins a file in the folder `dir`. Of a run that goes on, events that come again are cut off the files that are there.
    ///
    /// # Errors
    /// A folder or file that cannot be read or written.
    pub fn create(dir: &Path, resumed: Option<Resumed>) -> Result<Self> {
        let created = || -> Result<Self> {
            fs::create_dir_all(dir)?;
            let mut files = event_files(dir)?;
            if let Some(resumed) = resumed {
                for file in files.iter().filter(|file| is_own(file)) {
                    cut(file, resumed)?;
                }
            }
            // A process that goes on within the same second comes behind the one before.
            let mut second = since_epoch() as u64;
            let path = loop {
                let path = dir.join(format!("{PREFIX}{second:010}{SUFFIX}"));
                if files.last().is_none_or(|last| *last < path) {
                    break path;
                }
                second += 1;
                files.retain(|file| *file >= path);
            };
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)?;
            let mut events = Self { file, path };
            events.append(Event::Version)?;
            if let Some(resumed) = resumed {
                events.append(Event::Start(resumed.step + 1))?;
            }
            Ok(events)
        };
        created().with_context(|| format!("--tensorboard {}", dir.display()))
    }

    /// Appends the numbers of a step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn step(&mut self, report: &StepReport) -> Result<()> {
        let training = [
            ("loss", report.loss),
            ("learning_rate", report.lr),
            ("grad_norm", report.grad_norm),
            ("tokens_per_second", report.tokens_per_second),
        ];
        let training = training.into_iter().chain(report.preferences.named());
        let mut scalars = under(TRAINING, training);
        let memory = [
            ("memory/peak_rss_bytes", report.peak_rss_bytes),
            ("memory/peak_device_bytes", report.peak_device_bytes),
        ];
        let memory = memory.into_iter();
        scalars.extend(memory.filter_map(|(tag, bytes)| Some((tag.to_owned(), bytes? as f64))));
        self.scalars(report.step, &scalars)
    }

    /// Appends the numbers of an evaluation.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        let loss = ("loss", evaluation.loss());
        let scalars = match &evaluation.result {
            EvalResult::Texts(report) => {
                under(EVALUATION, [loss, ("perplexity", report.perplexity)])
            }
            EvalResult::Preferences(report) => under(
                EVALUATION,
                [loss].into_iter().chain(report.preferences.named()),
            ),
            EvalResult::Loss { .. } => under(EVALUATION, [loss]),
        };
        self.scalars(evaluation.step, &scalars)
    }

    /// Appends samples, a text for each prompt by its number.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn samples(&mut self, report: &SampleReport) -> Result<()> {
        let samples = report.samples.iter().enumerate();
        let texts: Vec<(String, String)> = samples
            .map(|(place, sample)| (format!("{SAMPLES}{}{TEXT}", place + 1), markdown(sample)))
            .collect();
        let texts: Vec<(&str, &str)> = texts
            .iter()
            .map(|(tag, text)| (tag.as_str(), text.as_str()))
            .collect();
        self.append(Event::Texts(report.step, &texts))
    }

    fn scalars(&mut self, step: usize, scalars: &[(String, f64)]) -> Result<()> {
        let scalars = scalars.iter().map(|(tag, value)| (tag.as_str(), *value));
        let scalars: Vec<(&str, f64)> = scalars.collect();
        self.append(Event::Scalars(step, &scalars))
    }

    fn append(&mut self, event: Event<'_>) -> Result<()> {
        // One write a record: a reader never waits for the rest of one.
        let written = self.file.write_all(&framed(&event.message(since_epoch())?));
        written.with_context(|| format!("write {}", self.path.display()))
    }
}

/// Returns numbers by their tags, which begin with `part`.
fn under<'a>(part: &str, numbers: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<(String, f64)> {
    let numbers = numbers.into_iter();
    numbers
        .map(|(name, value)| (format!("{part}{name}"), value))
        .collect()
}

/// Returns a sample in Markdown, which TensorBoard shows: prompt and answer as they are, in blocks of code.
fn markdown(sample: &Sample) -> String {
    let block = |text: &str| {
        let lines = text.split('\n').map(|line| format!("    {line}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    format!(
        "**prompt**\n\n{}\n\n**answer**\n\n{}",
        block(&sample.prompt),
        block(&sample.text)
    )
}

/// Cuts what comes again off an event file, and what is not whole.
fn cut(path: &Path, resumed: Resumed) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let length = length_up_to(&bytes, resumed);
    OpenOptions::new()
        .write(true)
        .open(path)?
        .set_len(length as u64)
}

fn length_up_to(bytes: &[u8], resumed: Resumed) -> usize {
    let stays = |message: &[u8]| {
        Head::read(message).is_ok_and(|Head { step, names }| {
            let is_of = |part: &str| names.iter().any(|name| name.starts_with(part));
            let comes_again =
                !resumed.evaluated && is_of(EVALUATION) || !resumed.sampled && is_of(SAMPLES);
            step < resumed.step || step == resumed.step && !comes_again
        })
    };
    let records = Records::of(bytes).take_while(|record| stays(record.message));
    records.last().map_or(0, |record| record.end)
}

/// Returns the event files of a folder by their names; of one that is not there none.
fn event_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with(PREFIX)) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    };
    read().map_err(|error| Error::new(error).context(format!("read {}", dir.display())))
}

fn is_own(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.ends_with(SUFFIX))
}

/// Returns the seconds since 1970.
fn since_epoch() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALARS: [(&str, f64); 2] = [("train/loss", 2.5), ("train/grad_norm", 0.25)];

    /// What tensorboard 2.21 writes: `EventFileWriter` with its file version at 1 s, `SessionLog(START)` and the two scalars.
    #[test]
    fn the_bytes_are_tensorboards() {
        let events = [
            (Event::Version, 1.0),
            (Event::Start(300), 2.5),
            (Event::Scalars(300, &SCALARS), 1792351234.5),
        ];
        let written = events.map(|(event, time)| framed(&event.message(time).unwrap()));
        let written = written.concat();
        let written: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, RECORDED);
    }

    const RECORDED: &str = "\
        1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a1000000000000000\
        95fbfe1809000000000000044010ac023a0208017d05b37d39000000000000008b0737f1090000a00047b5da4110ac02\
        2a2b0a110a0a747261696e2f6c6f737315000020400a160a0f747261696e2f677261645f6e6f726d150000803ecf421e\
        36";

    /// What tensorboard 2.21 writes of the values that torch's `SummaryWriter.add_text` makes of two texts.
    #[test]
    fn the_bytes_of_texts_are_tensorboards() {
        let texts = [
            ("samples/1/text_summary", "a ä"),
            ("samples/2/text_summary", ""),
        ];
        let written = framed(&Event::Texts(300, &texts).message(1792351234.5).unwrap());
        let written: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, RECORDED_TEXTS);
    }

    const RECORDED_TEXTS: &str = "\
        720000000000000025053a82090000a00047b5da4110ac022a640a320a1673616d706c65732f312f746578745f73756d\
        6d617279420e080712041202080142046120c3a44a080a060a04746578740a2e0a1673616d706c65732f322f74657874\
        5f73756d6d617279420a080712041202080142004a080a060a0474657874aea5c0c8";

    #[test]
    fn what_comes_again_is_cut_off() {
        let record = |event: Event<'_>| framed(&event.message(1.0).unwrap());
        let head = record(Event::Version);
        let step = |step| record(Event::Scalars(step, &SCALARS));
        let evaluation = record(Event::Scalars(2, &[("eval/loss", 1.0)]));
        let samples = record(Event::Texts(2, &[("samples/1/text_summary", "a")]));
        let whole = [
            head.clone(),
            step(1),
            step(2),
            evaluation.clone(),
            samples,
            step(3),
        ]
        .concat();
        let length_of = |bytes: &[u8], step, evaluated, sampled| {
            let resumed = Resumed {
                step,
                evaluated,
                sampled,
            };
            length_up_to(bytes, resumed)
        };
        let length = |bytes: &[u8], step, evaluated| length_of(bytes, step, evaluated, true);
        let record = step(1).len();
        assert_eq!(length(&whole, 3, true), whole.len());
        assert_eq!(length(&whole, 2, true), whole.len() - record);
        assert_eq!(length(&whole, 2, false), head.len() + 2 * record);
        let up_to_samples = head.len() + 2 * record + evaluation.len();
        assert_eq!(length_of(&whole, 2, true, false), up_to_samples);
        assert_eq!(length(&whole, 0, false), head.len());
        // A process that was killed while it wrote, and a disk that lost a bit.
        assert_eq!(
            length(&whole[..whole.len() - 1], 9, true),
            whole.len() - record
        );
        let mut damaged = whole.clone();
        damaged[head.len() + 20] ^= 1;
        assert_eq!(length(&damaged, 9, true), head.len());
        assert_eq!(length(b"", 9, true), 0);
    }

    #[test]
    fn files_of_one_second_have_names_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        check_vacant(&dir.path().join("none")).unwrap();
        for _ in 0..3 {
            EventFile::create(dir.path(), None).unwrap();
        }
        assert_eq!(event_files(dir.path()).unwrap().len(), 3);
        let error = check_vacant(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another run"), "{error}");
        remove(dir.path());
        assert!(!dir.path().exists());
    }
}
