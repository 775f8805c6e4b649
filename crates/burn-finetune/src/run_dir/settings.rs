//! What decides what a run computes, and what of it may be otherwise when the run goes on.

use crate::error::FinetuneError;
use crate::moment::Moment;
use crate::train::TrainConfig;
use burn_qlora::LoraConfig;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;
use tensor_files::Checksum;

/// The key of the moment at which the run was started.
pub(super) const STARTED: &str = "started";
/// The key of what is written down of where the run came from.
pub(super) const ORIGIN: &str = "origin";
const STEPS: &str = "steps";
/// Behind the name of a source: the key of the checksum of what is in it.
const FINGERPRINT: &str = "-fingerprint";

/// All the values that decide what a run computes. They are written to `run.json` when it starts, and held against those
/// of its resumption.
///
/// A key that `run.json` lacks is one that an older version did not write: it counts as the default of
/// [`TrainConfig`], which is what that version did, and as null where there is none.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// The numbers of the run. Its steps may become more or fewer where the schedule does not depend on them.
    pub config: TrainConfig,
    /// The configuration of the adapters.
    pub lora: LoraConfig,
    /// The model as the adapter's files name it.
    pub base_model: String,
    /// Files that belong to every adapter that is saved, by their names: those of a tokenizer with tokens that the model's own
    /// lacks. They decide nothing.
    pub companions: Vec<(String, Vec<u8>)>,
    /// When the run was started, for templates that print the date.
    pub started: Moment,
    /// What the run reads, compared by what is in it.
    pub sources: Vec<RunSource>,
    /// Whatever else has to stay as it is, by name.
    pub others: Map<String, Value>,
    /// What is written down and may change though results may then differ in their last bits, by name: the device, the
    /// processor's instruction set.
    pub machine: Map<String, Value>,
    /// Where the run comes from, for whoever does it again; a resumption does not look at it.
    pub origin: Option<Value>,
}

/// A file or folder that a run reads.
#[derive(Debug, Clone)]
pub struct RunSource {
    /// Its name among the settings.
    pub name: &'static str,
    /// Where it is, `None` when there is none. It may move.
    pub path: Option<String>,
    /// The checksum of what is in it, which has to stay.
    pub fingerprint: Option<u64>,
}

impl RunSettings {
    /// Returns settings of nothing but these two, for a run whose data and model are known to be the same.
    pub fn new(config: TrainConfig, lora: LoraConfig, base_model: impl Into<String>) -> Self {
        Self {
            config,
            lora,
            base_model: base_model.into(),
            companions: Vec::new(),
            started: Moment::now(),
            sources: Vec::new(),
            others: Map::new(),
            machine: Map::new(),
            origin: None,
        }
    }

    /// Returns checksums of what the ranks of a run must have alike, by name: the settings, and what is in each source.
    pub fn digests(&self) -> Vec<(&'static str, u64)> {
        let mut sum = Checksum::default();
        sum.add_framed(Value::Object(self.compared()).to_string().as_bytes());
        sum.add_framed(self.started.to_string().as_bytes());
        let sources = self.sources.iter();
        let sources = sources.map(|source| (source.name, source.fingerprint.unwrap_or_default()));
        std::iter::once(("configuration", sum.value()))
            .chain(sources)
            .collect()
    }

    /// Returns what `run.json` holds.
    pub(super) fn recorded(&self) -> Map<String, Value> {
        let mut recorded = self.compared();
        for source in &self.sources {
            recorded.insert(source.name.into(), source.path.clone().into());
            if let Some(fingerprint) = source.shown() {
                recorded.insert(source.key(), fingerprint.into());
            }
        }
        recorded.extend(self.machine.clone());
        recorded.insert(STARTED.into(), self.started.to_string().into());
        if let Some(origin) = &self.origin {
            recorded.insert(ORIGIN.into(), origin.clone());
        }
        recorded
    }

    /// Returns what has to be equal, by the names of the flags where there are any.
    fn compared(&self) -> Map<String, Value> {
        let mut compared = by_flag(&self.config);
        compared.extend(by_flag(&self.lora));
        compared.extend(self.others.clone());
        compared
    }

    /// Checks that a run with the settings `recorded` in the folder `path` can go on with these.
    ///
    /// # Errors
    /// [`FinetuneError::ConfigChanged`], [`FinetuneError::ContentChanged`], [`FinetuneError::LengthChanged`].
    pub(super) fn check_against(
        &self,
        recorded: &Map<String, Value>,
        path: &Path,
    ) -> Result<(), FinetuneError> {
        let own = read_again(self.recorded());
        let changed = self.changed(recorded, &own);
        let Some(key) = changed.first() else {
            return Ok(());
        };
        if let Some(source) = self.sources.iter().find(|source| source.key() == *key) {
            return Err(FinetuneError::ContentChanged {
                path: path.to_owned(),
                what: source.name,
                recorded: value(recorded, source.name).to_string(),
                current: value(&own, source.name).to_string(),
            });
        }
        if key == STEPS {
            return Err(FinetuneError::LengthChanged {
                path: path.to_owned(),
                schedule: self.config.schedule,
                recorded: value(recorded, key).to_string(),
                current: self.config.steps,
            });
        }
        Err(FinetuneError::ConfigChanged {
            path: path.to_owned(),
            key: key.clone(),
            recorded: shown(value(recorded, key)),
            current: shown(value(&own, key)),
        })
    }

    /// Returns what has to be equal and is not as `recorded`, a sentence each.
    pub(super) fn differences(&self, recorded: &Map<String, Value>) -> Vec<String> {
        let own = read_again(self.recorded());
        let sentence = |key: String| {
            let source = self.sources.iter().find(|source| source.key() == key);
            let (was, now) = match source {
                Some(source) => (value(recorded, source.name), value(&own, source.name)),
                None => (value(recorded, &key), value(&own, &key)),
            };
            let (was, now) = (shown(was), shown(now));
            match source {
                Some(source) => format!(
                    "the run was started with another {}: what is in {now} is not what was in {was}",
                    source.name
                ),
                None => format!("the run was started with {key} = {was}, but now it is {now}"),
            }
        };
        let changed = self.changed(recorded, &own).into_iter();
        changed.map(sentence).collect()
    }

    /// Returns the names of what has to be equal and is not as `recorded`, in their order: what the vocabulary gets comes before
    /// the data, whose tokens it changes.
    fn changed(&self, recorded: &Map<String, Value>, own: &Map<String, Value>) -> Vec<String> {
        let keys: BTreeSet<&String> = own.keys().chain(recorded.keys()).collect();
        let changed = keys
            .into_iter()
            .filter(|key| !self.is_free(key, recorded) && value(recorded, key) != value(own, key));
        changed.cloned().collect()
    }

    /// Returns what of the machine is not as `recorded`, a sentence each.
    pub(super) fn changes(&self, recorded: &Map<String, Value>) -> Vec<String> {
        let changed = self.machine.iter().filter_map(|(key, now)| {
            let was = recorded.get(key)?;
            (was != now).then(|| {
                format!(
                    "the run was started with {key} = {was}, now it is {now}: the last bits of its results may differ"
                )
            })
        });
        changed.collect()
    }

    /// Returns whether a setting may be otherwise than `recorded`.
    fn is_free(&self, key: &str, recorded: &Map<String, Value>) -> bool {
        let mut sources = self.sources.iter();
        key == STARTED
            || key == ORIGIN
            || self.machine.contains_key(key)
            || key == STEPS && !self.config.schedule.depends_on_length()
            || sources.any(|source| {
                let known = recorded.contains_key(&source.key());
                // What is in it counts where both know it, else where it is.
                if key == source.name {
                    known && source.fingerprint.is_some()
                } else {
                    key == source.key() && !known
                }
            })
    }
}

impl RunSource {
    /// Returns one at `path` whose content is that of the file `content`.
    ///
    /// # Errors
    /// [`FinetuneError::Read`].
    pub fn of_file(name: &'static str, path: &Path, content: &Path) -> Result<Self, FinetuneError> {
        Ok(Self {
            name,
            path: Some(path.to_string_lossy().into_owned()),
            fingerprint: Some(Checksum::of_file(content)?),
        })
    }

    /// Returns one that is not there.
    pub fn none(name: &'static str) -> Self {
        Self {
            name,
            path: None,
            fingerprint: None,
        }
    }

    fn key(&self) -> String {
        format!("{}{FINGERPRINT}", self.name)
    }

    /// Returns the fingerprint in hexadecimal, because JSON numbers hold fewer bits.
    fn shown(&self) -> Option<String> {
        Some(format!("{:016x}", self.fingerprint?))
    }
}

/// Returns a setting; one that is not there is the default, or null.
fn value<'a>(settings: &'a Map<String, Value>, key: &str) -> &'a Value {
    static DEFAULTS: LazyLock<Map<String, Value>> =
        LazyLock::new(|| read_again(by_flag(&TrainConfig::default())));
    let found = settings.get(key).or_else(|| DEFAULTS.get(key));
    found.unwrap_or(&Value::Null)
}

/// Returns settings as they are read from a file: serde_json reads a number to within a bit, and two are compared that were
/// read alike.
fn read_again(settings: Map<String, Value>) -> Map<String, Value> {
    let text = Value::Object(settings.clone()).to_string();
    serde_json::from_str(&text).unwrap_or(settings)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unset".to_owned(),
        value => value.to_string(),
    }
}

/// Returns the fields of a configuration by the names of their flags.
fn by_flag(config: &impl Serialize) -> Map<String, Value> {
    let Ok(Value::Object(fields)) = serde_json::to_value(config) else {
        return Map::new();
    };
    let renamed = fields.into_iter();
    renamed
        .map(|(key, value)| (key.replace('_', "-"), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ScheduleKind;

    fn settings() -> RunSettings {
        let mut settings = RunSettings::new(TrainConfig::default(), LoraConfig::new(4, 8.0), "toy");
        settings.sources.push(RunSource {
            name: "data",
            path: Some("rows.jsonl".into()),
            fingerprint: Some(1),
        });
        settings.others.insert("seq-len".into(), 64.into());
        settings.machine.insert("device".into(), "flex".into());
        settings
    }

    fn check(recorded: &Map<String, Value>, current: &RunSettings) -> Result<(), String> {
        let checked = current.check_against(recorded, Path::new("run"));
        checked.map_err(|error| error.to_string())
    }

    #[test]
    fn what_decides_nothing_may_change() {
        let recorded = settings().recorded();
        let mut current = settings();
        current.sources[0].path = Some("./data/../rows.jsonl".into());
        current.machine.insert("device".into(), "cuda".into());
        current.base_model = "moved".into();
        current.started = "2026-12-31T23:59:58+01:00".parse().unwrap();
        current.config.steps += 100;
        assert_eq!(check(&recorded, &current), Ok(()));
        assert_eq!(settings().changes(&recorded), Vec::<String>::new());
        let changes = current.changes(&recorded);
        assert!(
            changes[0].contains(r#"device = "flex", now it is "cuda""#),
            "{changes:?}"
        );
    }

    #[test]
    fn what_decides_is_told_by_name() {
        let recorded = settings().recorded();
        type Change = fn(&mut RunSettings);
        let cases: [(&str, Change); 6] = [
            ("lr = 0.0002, but now it is 0.01", |s| s.config.lr = 0.01),
            ("rank = 4, but now it is 8", |s| s.lora.rank = 8),
            ("seq-len = 64, but now it is 32", |s| {
                s.others.insert("seq-len".into(), 32.into());
            }),
            ("packing = unset, but now it is true", |s| {
                s.others.insert("packing".into(), true.into());
            }),
            (
                r#"another data: what is in "rows.jsonl" is not what was in "rows.jsonl""#,
                |s| {
                    s.sources[0].fingerprint = Some(2);
                },
            ),
            ("data", |s| s.sources[0] = RunSource::none("data")),
        ];
        for (needle, change) in cases {
            let mut current = settings();
            change(&mut current);
            let error = check(&recorded, &current).unwrap_err();
            assert!(error.contains(needle), "{error}");
        }
    }

    /// Numbers of which serde_json makes neighbours.
    #[test]
    fn a_number_with_all_its_digits_is_the_same_when_it_is_read_again() {
        let mut settings = settings();
        settings.config.lr = 1.2347835302352905;
        settings.config.epsilon = 1.6665728494524246e-8;
        let text = Value::Object(settings.recorded()).to_string();
        let recorded: Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(check(&recorded, &settings), Ok(()));
        assert_eq!(settings.differences(&recorded), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_told_and_where_a_run_came_from_is_none() {
        let recorded = settings().recorded();
        let mut current = settings();
        current.origin = Some("elsewhere".into());
        assert_eq!(current.differences(&recorded), Vec::<String>::new());
        assert_eq!(check(&current.recorded(), &settings()), Ok(()));
        current.config.lr = 0.5;
        current.config.seed = 9;
        current.sources[0].fingerprint = Some(2);
        let told = current.differences(&recorded);
        assert_eq!(told.len(), 3, "{told:?}");
        for needle in ["lr = 0.0002, but now it is 0.5", "seed = 0", "another data"] {
            assert!(told.iter().any(|one| one.contains(needle)), "{told:?}");
        }
    }

    #[test]
    fn the_length_may_change_where_the_schedule_does_not_depend_on_it() {
        for (schedule, free) in [
            (ScheduleKind::Constant, true),
            (ScheduleKind::Linear, false),
            (ScheduleKind::Cosine, false),
            (ScheduleKind::CosineRestarts, false),
            (ScheduleKind::Wsd, false),
        ] {
            let mut first = settings();
            first.config.schedule = schedule;
            first.config.warmup_steps = 7;
            let mut longer = first.clone();
            longer.config.steps = 300;
            let checked = check(&first.recorded(), &longer);
            assert_eq!(checked.is_ok(), free, "{schedule}");
            assert_eq!(check(&first.recorded(), &first), Ok(()));
            if let Err(error) = checked {
                assert!(error.contains("steps = 100, but now it is 300"), "{error}");
                assert!(error.contains(&schedule.to_string()), "{error}");
            }
        }
    }

    /// `run.json` as it was written before fingerprints of model and adapter, date and machine were, and before a learning
    /// rate could fall to anything but 0.
    #[test]
    fn what_an_older_version_did_not_write_is_not_missed() {
        let mut recorded = settings().recorded();
        for new in ["started", "device", "min-lr", "cycles", "decay-steps"] {
            recorded.remove(new);
        }
        let mut current = settings();
        current.sources.push(RunSource {
            name: "model",
            path: Some("m".into()),
            fingerprint: Some(3),
        });
        recorded.insert("model".into(), "m".into());
        current.sources.push(RunSource::none("init-adapter"));
        recorded.insert("init-adapter".into(), Value::Null);
        assert_eq!(check(&recorded, &current), Ok(()));
        current.config.min_lr = 1e-5;
        let error = check(&recorded, &current).unwrap_err();
        assert!(
            error.contains("min-lr = 0.0, but now it is 0.00001"),
            "{error}"
        );
        current.config.min_lr = 0.0;
        // Without a fingerprint the path has to do.
        current.sources[1].path = Some("n".into());
        let error = check(&recorded, &current).unwrap_err();
        assert!(
            error.contains(r#"model = "m", but now it is "n""#),
            "{error}"
        );
    }
}
