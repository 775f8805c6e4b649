//! Errors of a fine-tuning run.

use crate::schedule::ScheduleKind;
use burn_paged::PagedError;
use burn_qlora::LoraError;
use std::fmt;
use std::path::{Path, PathBuf};
use tensor_files::TensorFileError;

/// An error of this crate: which thing, what value it had, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinetuneError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder could not be written; what was there before is still there.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        reason: String,
    },
    /// A row of a data file that cannot be used.
    #[error("{}{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its place.
        line: Place,
        /// The fault.
        problem: RowProblem,
    },
    /// A data file, or a folder of them, that is not read.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// Names of columns that cannot be used.
    #[error("column {0}")]
    Columns(String),
    /// Rows of a data file that are longer than the longest allowed.
    #[error(
        "{}{line}: {count} of {examples} rows {} longer than {max} tokens, this one first; the longest has {longest}: \
         take them whole with --seq-len {longest}, or cut them with --truncate",
        path.display(), if *count == 1 { "is" } else { "are" }
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The place of the first.
        line: Place,
        /// How many there are.
        count: usize,
        /// How many examples the file has.
        examples: usize,
        /// The tokens of the longest.
        longest: usize,
        /// The longest allowed.
        max: usize,
    },
    /// Too few examples to stand before a question.
    #[error(
        "{}{line}: {count} examples are to stand before it, and the files of examples have {found}{}; ask for fewer, or give \
         more",
        path.display(), subject.as_ref().map_or(String::new(), |subject| format!(" of its subject {subject}"))
    )]
    Shots {
        /// The file of the question.
        path: PathBuf,
        /// Its place there.
        line: Place,
        /// How many there are to be.
        count: usize,
        /// How many there are.
        found: usize,
        /// What the question is about, where that is told.
        subject: Option<String>,
    },
    /// A data file with nothing in it to learn from.
    #[error("{} has no data: {reason}", path.display())]
    NoData {
        /// The file.
        path: PathBuf,
        /// The content that was looked for.
        reason: &'static str,
    },
    /// A row length that cannot work.
    #[error("rows of {value} tokens cannot be used: {reason}")]
    RowLength {
        /// The length asked for.
        value: usize,
        /// Why not.
        reason: String,
    },
    /// A chat template that does not compile, fails, or refuses the conversation.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A setting of the run that cannot work.
    #[error("{field} is {value}, but it must be {expected}")]
    InvalidConfig {
        /// The setting.
        field: &'static str,
        /// The value it had.
        value: String,
        /// The values it can have.
        expected: &'static str,
    },
    /// The model has nothing to train.
    #[error("the model has no adapters to train; attach or load some first")]
    NoAdapters,
    /// The loss or the gradient is no longer a number; the parameters were not touched.
    #[error(
        "step {step}: {what} is {value}; the step was not taken: lower the learning rate or look for \
         a broken row in the data{}",
        listed(rows)
    )]
    NotFinite {
        /// The step, counted from 1.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// The rows of the step, where they are known.
        rows: Vec<String>,
    },
    /// An update after which parameters might not be finite; they were not touched.
    #[error(
        "step {step}: an update at learning rate {lr:e} could take parameters beyond what f32 holds; the step was not \
         taken: lower the learning rate"
    )]
    UpdateTooLarge {
        /// The step, counted from 1.
        step: usize,
        /// Its learning rate.
        lr: f64,
    },
    /// The loss on held-out rows is no number.
    #[error(
        "the loss on held-out rows is {value}; look at the first such rows{}",
        listed(rows)
    )]
    EvalNotFinite {
        /// The value.
        value: f64,
        /// The rows of the first batch whose loss is not.
        rows: Vec<String>,
    },
    /// A log-probability that the reference gives is no number.
    #[error(
        "the log-probability that the reference gives an answer is {value}; look at the first such rows{}",
        listed(rows)
    )]
    ReferenceNotFinite {
        /// The value.
        value: f64,
        /// The rows of the first batch that has one.
        rows: Vec<String>,
    },
    /// Adapters that are not to be saved or taken.
    #[error(
        "the adapter of {layer} holds values that are no finite numbers: lower the learning rate, or begin with another \
         adapter"
    )]
    AdapterNotFinite {
        /// The layer.
        layer: String,
    },
    /// The output folder is taken.
    #[error(
        "{} already holds a run; resume it or give another folder",
        path.display()
    )]
    OutputInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that is no run's.
    #[error("{} holds no run: there is no run.json in it", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// There is no run to resume.
    #[error("{} holds no run to resume: {reason}", path.display())]
    NothingToResume {
        /// The folder.
        path: PathBuf,
        /// The part that is missing.
        reason: &'static str,
    },
    /// The run to resume was started with another setting.
    #[error(
        "{} was started with {key} = {recorded}, but now it is {current}; resume with the same settings or \
         start another run",
        path.display()
    )]
    ConfigChanged {
        /// The run's folder.
        path: PathBuf,
        /// The setting.
        key: String,
        /// Its value when the run began.
        recorded: String,
        /// Its value now.
        current: String,
    },
    /// The run to resume was started with other data, another model or another adapter.
    #[error(
        "{} was started with another {what}: what is in {current} is not what was in {recorded}; resume with the same or \
         start another run",
        path.display()
    )]
    ContentChanged {
        /// The run's folder.
        path: PathBuf,
        /// The data, the model or the adapter, by its name among the settings.
        what: &'static str,
        /// Where it was when the run began.
        recorded: String,
        /// Where it is now.
        current: String,
    },
    /// The run to resume is to have another number of steps, on which its schedule depends.
    #[error(
        "{} was started with steps = {recorded}, but now it is {current}, and the learning rate of a {schedule} schedule \
         depends on it; resume with steps = {recorded}, or start another run from its adapter",
        path.display()
    )]
    LengthChanged {
        /// The run's folder.
        path: PathBuf,
        /// The schedule.
        schedule: ScheduleKind,
        /// The steps when the run began.
        recorded: String,
        /// The steps now.
        current: usize,
    },
    /// The run to resume has done more steps than it is to have.
    #[error(
        "{} has done {done} steps already, and {steps} are asked for; ask for {done} or more, or start another run",
        path.display()
    )]
    AlreadyFurther {
        /// The run's folder.
        path: PathBuf,
        /// The steps of its last checkpoint.
        done: usize,
        /// The steps asked for.
        steps: usize,
    },
    /// Another process trains in the run's folder.
    #[error(
        "{} is in use: another process trains there; wait for its end or give another folder",
        path.display()
    )]
    RunInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint that is damaged, or another run's.
    #[error("{source}; remove {} {}", folder.display(), way_on(*before))]
    Checkpoint {
        /// What is wrong.
        source: Box<FinetuneError>,
        /// The checkpoint.
        folder: PathBuf,
        /// The step of the checkpoint before it, if there is one.
        before: Option<usize>,
    },
    /// A checkpoint file that does not follow its format.
    #[error("{} is not a valid {expected}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format it should have.
        expected: &'static str,
        /// The fault.
        reason: String,
    },
    /// A value could not be brought to the host.
    #[error("cannot read {what} from the device: {reason}")]
    Device {
        /// The value.
        what: String,
        /// The backend's reason.
        reason: String,
    },
    /// A rank of a run that has something else than the first.
    #[error("rank {rank} has another {what} than rank 0; give every rank the same")]
    RankDiffers {
        /// The rank.
        rank: usize,
        /// What it has.
        what: &'static str,
    },
    /// The ranks of a run cannot reach each other.
    #[error("the ranks of the run: {0}")]
    Ranks(String),
    /// An adapter problem.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// Optimizer state that could not be paged.
    #[error(transparent)]
    Paged(#[from] PagedError),
    /// Any other problem with a file.
    #[error(transparent)]
    File(TensorFileError),
}

impl FinetuneError {
    /// Returns the error of a file of a checkpoint that is not what was written.
    pub(crate) fn damaged(path: &Path, reason: String) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            expected: "part of this checkpoint",
            reason,
        }
    }
}

/// Returns where `rows` are, to stand behind a sentence.
fn listed(rows: &[String]) -> String {
    match rows {
        [] => String::new(),
        rows => format!(" ({})", rows.join(", ")),
    }
}

fn way_on(before: Option<usize>) -> String {
    match before {
        Some(step) => format!("to go on from step {step}"),
        None => "to begin anew".into(),
    }
}

impl From<TensorFileError> for FinetuneError {
    fn from(error: TensorFileError) -> Self {
        match error {
            TensorFileError::Read { path, source } => Self::Read { path, source },
            TensorFileError::Write { path, source } => Self::Write {
                path,
                reason: source.to_string(),
            },
            TensorFileError::Malformed { path, fault } => Self::Malformed {
                path,
                expected: "safetensors file",
                reason: fault.to_string(),
            },
            other => Self::File(other),
        }
    }
}

/// The place of a row in its file. It is written behind the file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The line on which it begins, counted from 1.
    Line(usize),
    /// An element of an array.
    Element {
        /// The line on which it begins, counted from 1.
        line: usize,
        /// Its place among the rows, counted from 1.
        row: usize,
    },
    /// Its place among the rows of a file without lines, counted from 1.
    Row(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, ":{line}"),
            Self::Element { line, row } => write!(f, ":{line} (row {row})"),
            Self::Row(row) => write!(f, " (row {row})"),
        }
    }
}

/// A fault of one row of a data file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// The row is not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// The row is no object.
    #[error("a row is an object with named columns, and this is a {0}")]
    NotObject(String),
    /// The row is an object, but none that this crate knows.
    #[error(
        "no known keys; a row needs \"messages\" or \"conversations\", or \"prompt\" and \"completion\", or \
         \"instruction\" and \"output\", or \"text\"; columns of other names are given them by --columns, say \
         --columns prompt=question,completion=answer (found: {found})"
    )]
    UnknownKeys {
        /// The keys that are there.
        found: String,
    },
    /// The row holds two answers, of which one is preferred.
    #[error(
        "\"chosen\" and \"rejected\" are a row of preferences: train on those with --objective dpo, orpo or kto, or learn the \
         chosen answers alone with --columns {name}=chosen"
    )]
    Preference {
        /// What the chosen answer would be read as.
        name: &'static str,
    },
    /// The row holds no preference, and only such rows are learnt.
    #[error("no preference: {needs}{served} (found: {found})")]
    NoPreference {
        /// The keys of the rows that are.
        needs: &'static str,
        /// What learns the row, to stand behind that.
        served: &'static str,
        /// The keys that are there.
        found: String,
    },
    /// The row asks nothing of a model.
    #[error(
        "there is nothing to answer; a prompt is a row with \"messages\" or \"conversations\", \"prompt\", \
         \"instruction\" or \"text\" (found: {found})"
    )]
    NoQuestion {
        /// The keys that are there.
        found: String,
    },
    /// The row asks nothing that has choices.
    #[error(
        "no question with choices; a row needs \"question\", \"choices\" and \"answer\" (MMLU), \"question\", \"choices\" and \
         \"answerKey\" (ARC), \"activity_label\", \"ctx\", \"endings\" and \"label\" (HellaSwag), or \"prompt\", \"choices\" and \
         \"answer\" (found: {found})"
    )]
    NoChoices {
        /// The keys that are there.
        found: String,
    },
    /// The row is of another task than those before it.
    #[error(
        "this is a row of {found}, and those before it are of {before}; measure each task by itself"
    )]
    OtherTask {
        /// Its task.
        found: &'static str,
        /// Theirs.
        before: &'static str,
    },
    /// The answer is none of the choices.
    #[error("\"{column}\" is {found}, but it must be {expected}")]
    NoSuchChoice {
        /// The key of the answer.
        column: &'static str,
        /// What it holds.
        found: String,
        /// What it may hold.
        expected: String,
    },
    /// A part of a question is no token.
    #[error("{0}")]
    NoTokens(String),
    /// A known key holds something else than it should.
    #[error("{0}")]
    WrongType(String),
    /// A chat row, but no chat template.
    #[error(
        "\"messages\", \"conversations\" and \"instruction\" need a chat template, and this model has none: put a \
         chat_template.jinja beside its files, or name a template with --chat-template (chatml, llama3, gemma, mistral, \
         alpaca, which is the published prompt of Alpaca for rows with \"instruction\", or a file)"
    )]
    NoTemplate,
    /// The chat template failed on the row.
    #[error("chat template: {0}")]
    Template(String),
    /// The assistant's part cannot be told from the rest of what the template writes.
    #[error(
        "the chat template is not incremental: what it writes for message {turn} cannot be told from the rest; put \
         {{% generation %}} and {{% endgeneration %}} around the assistant's part of the template, or name another one \
         with --chat-template"
    )]
    NotIncremental {
        /// The assistant's message, counted from 1.
        turn: usize,
    },
    /// A token that the model has no embedding for.
    #[error(
        "token {id} ({token:?}) is outside the vocabulary of {size}: the model has no embedding for it; take the \
         tokenizer that belongs to the model, or resize its embedding"
    )]
    OutsideVocabulary {
        /// The token's text.
        token: String,
        /// Its id.
        id: u32,
        /// The number of embeddings.
        size: usize,
    },
    /// No token of the row is to be learnt.
    #[error("nothing to learn: {0}")]
    NoTargets(&'static str),
    /// No message is the assistant's.
    #[error(
        "nothing to learn: no message has the role \"assistant\" (found: {roles}); under \"from\" and \"value\", in \
         place of \"role\" and \"content\", the names of ShareGPT are known as well"
    )]
    NoAnswer {
        /// The roles that are there.
        roles: String,
    },
    /// The row is longer than the longest allowed.
    #[error(
        "{len} tokens, but {max} is the longest allowed; raise --seq-len or cut it with --truncate"
    )]
    TooLong {
        /// Its length in tokens.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

/// What the user should hear of a row that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowWarning {
    /// The template does not write all of an answer.
    #[error("the chat template leaves out a part of message {turn}, which is not learnt")]
    LeftOut {
        /// The assistant's message, counted from 1.
        turn: usize,
    },
    /// Nothing can be preferred.
    #[error("\"chosen\" and \"rejected\" are the same")]
    SameAnswers,
    /// No end token is known.
    #[error(
        "no file names an end token (eos_token in tokenizer_config.json), so texts and completions get none and a model \
         trained on them does not stop"
    )]
    NoEnd,
}

impl RowProblem {
    /// Returns the kind of fault as one word, for counting and for machines.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::NotObject(_) => "not_object",
            Self::Preference { .. } => "preference",
            Self::NoPreference { .. } => "no_preference",
            Self::UnknownKeys { .. } => "unknown_keys",
            Self::NoQuestion { .. } => "no_question",
            Self::NoChoices { .. } => "no_choices",
            Self::OtherTask { .. } => "other_task",
            Self::NoSuchChoice { .. } => "no_such_choice",
            Self::NoTokens(_) => "no_tokens",
            Self::WrongType(_) => "wrong_type",
            Self::NoTemplate => "no_template",
            Self::Template(_) => "template",
            Self::NotIncremental { .. } => "not_incremental",
            Self::OutsideVocabulary { .. } => "outside_vocabulary",
            Self::NoTargets(_) | Self::NoAnswer { .. } => "no_targets",
            Self::TooLong { .. } => "too_long",
            Self::Tokenizer(_) => "tokenizer",
        }
    }
}

impl RowWarning {
    /// Returns the kind of warning as one word, for counting and for machines.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LeftOut { .. } => "left_out",
            Self::SameAnswers => "same_answers",
            Self::NoEnd => "no_end",
        }
    }
}
