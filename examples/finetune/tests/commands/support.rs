//! Running the binary, and what it is run on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use qlora_test_support::byte_tokenizer;
use qlora_test_support::read_fixture;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The binary under test.
pub const FINETUNE: &str = env!("CARGO_BIN_EXE_finetune");

/// The results of a run of the binary.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

impl Run {
    /// The run, which must have gone well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Checks that the run refused: exit code 2 and one line on stderr with all of `needles`.
    #[track_caller]
    pub fn refused(&self, needles: &[&str]) {
        assert_eq!(self.code, Some(2), "{self:#?}");
        assert_eq!(
            self.stderr.lines().count(),
            1,
            "more than one line: {}",
            self.stderr
        );
        let line = self.stderr.trim_end();
        assert!(line.starts_with("error: "), "{line}");
        for needle in needles {
            assert!(line.contains(needle), "`{needle}` is not in: {line}");
        }
    }

    /// The JSON object in the last line of stdout.
    #[track_caller]
    pub fn last_json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"))
    }
}

/// Runs the binary with arguments of any mix of texts and paths, and a list of more behind them.
#[macro_export]
macro_rules! finetune {
    ($($argument:expr),* $(,)?) => {
        $crate::finetune!($($argument),*; std::iter::empty::<&str>())
    };
    ($($argument:expr),*; $more:expr) => {{
        let mut command = std::process::Command::new($crate::support::FINETUNE);
        $(command.arg($argument);)*
        $crate::support::run(command.args($more))
    }};
}

/// Returns `finetune train` of a model on data, into a folder.
pub fn train(model: &Path, data: &Path, output: &Path) -> Command {
    let mut command = Command::new(FINETUNE);
    command.arg("train").arg("--model").arg(model);
    command.arg("--data").arg(data);
    command.arg("--output").arg(output);
    command
}

/// Returns `finetune eval` of a model on data.
pub fn eval(model: &Path, data: &Path) -> Command {
    let mut command = Command::new(FINETUNE);
    command.arg("eval").arg("--model").arg(model);
    command.arg("--data").arg(data);
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Run {
    // A refusal must not depend on the network: an address that answers nothing stands for the Hub.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    // Without it the system's Wayland library complains on stderr whenever GPUs are looked for.
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command.output().expect("the binary runs").into()
}

/// A directory for one test: a model with a tokenizer, data, and room for outputs.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a temporary directory"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The bytes of the adapter of a finished run.
    #[track_caller]
    pub fn adapter(&self, name: &str) -> Vec<u8> {
        let file = self.path(name).join("adapter_model.safetensors");
        fs::read(file).expect("the run is done")
    }

    /// The evaluations that a run has recorded.
    #[track_caller]
    pub fn evaluations(&self, name: &str) -> Vec<Value> {
        let text = fs::read(self.path(name).join("evaluations.json")).expect("there are some");
        let record: Value = serde_json::from_slice(&text).expect("JSON");
        record["evaluations"].as_array().expect("a list").clone()
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("a file can be written");
        path
    }

    /// A copy of a fixture model with a byte-level tokenizer and a chat template.
    pub fn model(&self, fixture: &str) -> PathBuf {
        let dir = self.path(fixture);
        fs::create_dir_all(&dir).expect("a directory can be made");
        for name in ["config.json", "generation_config.json", "model.safetensors"] {
            let bytes = read_fixture(Path::new(fixture).join(name));
            fs::write(dir.join(name), bytes).expect("a file can be written");
        }
        fs::write(dir.join("tokenizer.json"), byte_tokenizer().to_string()).expect("written");
        let settings = json!({
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "chat_template": "{% for message in messages %}{{ message.role }}: \
                {{ message.content }}{{ eos_token }}{% endfor %}\
                {% if add_generation_prompt %}assistant: {% endif %}",
        });
        fs::write(dir.join("tokenizer_config.json"), settings.to_string()).expect("written");
        dir
    }

    /// Prompt and completion rows of different lengths.
    pub fn rows(&self, count: usize) -> PathBuf {
        let line = |i: usize| json!({ "prompt": format!("{i} and {}? ", i * i), "completion": format!("{}.", i + i * i) });
        let text: String = (0..count).map(|i| format!("{}\n", line(i))).collect();
        self.file("rows.jsonl", text)
    }

    /// A text of a few thousand bytes.
    pub fn text(&self) -> PathBuf {
        let text: String = (0..200)
            .map(|i| format!("Line {i} of a plain text.\n"))
            .collect();
        self.file("text.txt", text)
    }

    /// A text of 136 thousand bytes.
    pub fn long_text(&self) -> PathBuf {
        self.file(
            "long.txt",
            "A sentence for the model to read. ".repeat(4000),
        )
    }

    /// Returns the files in the directory, to see that nothing was half-written.
    pub fn listing(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = match fs::read_dir(self.path(name)) {
            Ok(entries) => entries
                .map(|entry| {
                    entry
                        .expect("an entry")
                        .file_name()
                        .to_string_lossy()
                        .into_owned()
                })
                .collect(),
            Err(_) => Vec::new(),
        };
        names.sort();
        names
    }
}

/// The step log as JSON objects.
#[track_caller]
pub fn log_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the log is there");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

/// The bytes in the line of `stdout` that begins with `name`, as the program prints them: `peak   1.24 GB`.
#[track_caller]
pub fn printed_bytes(stdout: &str, name: &str) -> f64 {
    let text = stdout.lines().find_map(|line| line.strip_prefix(name));
    let (number, unit) = text
        .expect("a line")
        .trim()
        .split_once(' ')
        .expect("a unit");
    let scale = match unit {
        "GB" => 1e9,
        "MB" => 1e6,
        "kB" => 1e3,
        other => panic!("{other}"),
    };
    number.parse::<f64>().expect("a number") * scale
}

/// A number of a JSON object.
#[track_caller]
pub fn number(object: &Value, key: &str) -> f64 {
    object[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} in {object}"))
}
