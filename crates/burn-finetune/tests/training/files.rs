//! Rows from files in the formats people have. The files of tests/fixtures/data were written by pyarrow, and `.jsonl` files
//! beside them hold what the library datasets reads of them.

use burn_finetune::{
    ChatTemplate, Columns, Dataset, Learn, Row, RowEncoder, Source, Sources, Told, builtin_template,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokenizers::Tokenizer;

use crate::bytes::{learnt, tokenizer};

/// A tokenizer and a template.
struct Model {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Model {
    fn new() -> Self {
        Self::with_template(
            "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{{ m.tool_calls | default }}.{% endfor %}\
             {% if add_generation_prompt %}<a>{% endif %}",
        )
    }

    fn with_template(source: &str) -> Self {
        Self {
            tokenizer: tokenizer(),
            template: Some(ChatTemplate::new(source, BTreeMap::new()).unwrap()),
        }
    }

    fn read(&self, sources: &Sources) -> Result<Dataset, String> {
        let encoder = RowEncoder {
            tokenizer: &self.tokenizer,
            template: self.template.as_ref(),
            eos: Some(900),
            vocab_size: None,
            learn: Learn::AllAnswers,
            max_len: 400,
            truncate: false,
        };
        Dataset::read(sources, &encoder).map_err(|error| error.to_string())
    }

    /// Returns each row as a text, with the part that is learnt behind a bar.
    fn rows(&self, sources: &Sources) -> Result<Vec<String>, String> {
        let data = self.read(sources)?;
        let rows = data.rows().map(|row| {
            let row = row.unwrap();
            let all = Row::new(row.ids.clone(), vec![true; row.len()]);
            let both = [&all, &row].map(|row| learnt(row, &self.tokenizer).replace('Ċ', "\n"));
            format!("{}|{}", both[0].trim_end_matches('$'), both[1])
        });
        Ok(rows.collect())
    }
}

fn rows_of(data: &Dataset) -> Vec<Row> {
    data.rows().map(Result::unwrap).collect()
}

/// Returns what the user hears of the rows.
fn told(data: &Dataset) -> Vec<String> {
    data.counts().warnings.iter().map(Told::line).collect()
}

/// A folder with one file.
struct Written {
    _dir: TempDir,
    path: PathBuf,
}

fn written(name: &str, bytes: impl AsRef<[u8]>) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    Written { _dir: dir, path }
}

fn read(name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
    let written = written(name, bytes);
    let rows = Model::new().rows(&Sources::file(&written.path));
    rows.map_err(|error| error.replace(&*written.path.to_string_lossy(), name))
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/data")
        .join(name)
}

fn columns(named: &[(&str, &str)]) -> Columns {
    Columns::new(
        named
            .iter()
            .map(|(name, column)| (name.to_string(), column.to_string())),
    )
    .unwrap()
}

#[test]
fn every_format_gives_the_rows_that_datasets_reads() {
    let model = Model::new();
    let expected = model.read(&Sources::file(fixture("chats.jsonl"))).unwrap();
    assert_eq!(expected.len(), 9);
    for name in [
        "none.parquet",
        "snappy.parquet",
        "gzip.parquet",
        "zstd.parquet",
        "lz4.parquet",
        "zstd-pages-v2.parquet",
        "dictionary-off.parquet",
        "chats.jsonl.zst",
    ] {
        let data = model.read(&Sources::file(fixture(name))).unwrap();
        assert_eq!(rows_of(&data), rows_of(&expected), "{name}");
    }
    let expected = model.read(&Sources::file(fixture("table.jsonl"))).unwrap();
    let table = model.read(&Sources::file(fixture("table.csv"))).unwrap();
    assert_eq!(rows_of(&table), rows_of(&expected));
    assert_eq!(table.len(), 3);
}

#[test]
fn of_a_parquet_file_only_the_columns_that_are_needed_are_read() {
    // The others are packed by a codec that is not built in.
    let model = Model::new();
    let data = model.read(&Sources::file(fixture("wide.parquet"))).unwrap();
    assert_eq!(data.len(), 2);
    let [warning] = &told(&data)[..] else {
        panic!("one warning for the file: {:?}", told(&data));
    };
    assert!(
        warning.contains("not read: column0, column1") && warning.contains("and 87 more"),
        "{warning}"
    );
}

#[test]
fn a_parquet_file_that_is_not_read_is_named() {
    let model = Model::new();
    let refused = |path: PathBuf| model.read(&Sources::file(path)).unwrap_err();
    let error = refused(fixture("brotli.parquet"));
    assert!(
        error.contains("BROTLI") && error.contains("not built in"),
        "{error}"
    );
    let error = refused(fixture("unknown.parquet"));
    assert!(
        error.contains("(found: question, answer)") && error.contains("--columns"),
        "{error}"
    );
    let error = refused(fixture("preference.parquet"));
    assert!(
        error.contains("--objective dpo") && error.contains("--columns completion=chosen"),
        "{error}"
    );
    let named = Sources::file(fixture("preference.parquet"));
    let named = named.with_columns(columns(&[("completion", "chosen")]));
    assert_eq!(model.rows(&named).unwrap(), ["qa|a$"]);
    let named = Sources::file(fixture("unknown.parquet"));
    let named = named.with_columns(columns(&[("prompt", "question"), ("completion", "answer")]));
    assert_eq!(model.rows(&named).unwrap(), ["qa|a$"]);
    assert_eq!(told(&model.read(&named).unwrap()), [""; 0]);
}

#[test]
fn a_damaged_parquet_file_is_an_error() {
    let whole = fs::read(fixture("zstd.parquet")).unwrap();
    let error = read("cut.parquet", &whole[..whole.len() / 2]).unwrap_err();
    assert!(
        error.starts_with("cut.parquet: the Parquet file"),
        "{error}"
    );
    let model = Model::new();
    for place in (4..whole.len()).step_by(37) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x55;
        let written = written("damaged.parquet", &bytes);
        // Whether the damage is seen depends on the byte; it ends nothing but the reading.
        let _ = model.read(&Sources::file(&written.path));
    }
}

#[test]
fn objects_are_read_whatever_is_between_them() {
    let expected = ["ab|b$", "cd|d$"];
    for text in [
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n\n{\"prompt\": \"c\", \"completion\": \"d\"}",
        "[{\"prompt\": \"a\", \"completion\": \"b\"}, {\"prompt\": \"c\", \"completion\": \"d\"}]",
        "[\n  {\n    \"prompt\": \"a\",\n    \"completion\": \"b\"\n  },\n  {\"prompt\": \"c\", \"completion\": \"d\"}\n]\n",
        "{\n\"prompt\": \"a\",\n\"completion\": \"b\"\n}\n{\n\"prompt\": \"c\",\n\"completion\": \"d\"\n}",
        "\u{feff}{\"prompt\": \"a\", \"completion\": \"b\"}\r\n{\"prompt\": \"c\", \"completion\": \"d\"}\r\n",
    ] {
        for name in ["rows.json", "rows.jsonl", "rows"] {
            assert_eq!(read(name, text).unwrap(), expected, "{text}");
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        // By its content, not by its name.
        for name in ["rows.jsonl.gz", "rows.jsonl", "rows.gz"] {
            assert_eq!(read(name, &packed).unwrap(), expected);
        }
    }
}

#[test]
fn gzip_may_have_members_and_be_cut_off() {
    let member = |text: &str| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap()
    };
    let both = [
        member("{\"text\": \"ab\"}\n"),
        member("{\"text\": \"cd\"}\n"),
    ]
    .concat();
    assert_eq!(read("rows.jsonl.gz", &both).unwrap(), ["ab|b$", "cd|d$"]);
    let error = read("rows.jsonl.gz", &both[..both.len() - 9]).unwrap_err();
    assert!(
        error.contains("gzip data is damaged") && error.contains("cut off"),
        "{error}"
    );
    let twice = member("x");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&twice).unwrap();
    let error = read("rows.jsonl.gz.gz", packed.finish().unwrap()).unwrap_err();
    assert!(error.contains("packed twice"), "{error}");
    let zstd = fs::read(fixture("chats.jsonl.zst")).unwrap();
    let error = read("rows.jsonl.zst", &zstd[..zstd.len() - 20]).unwrap_err();
    assert!(error.contains("zstd data is damaged"), "{error}");
}

#[test]
fn tables_are_divided_by_what_their_first_line_has() {
    for (name, text) in [
        ("a.csv", "prompt,completion\na,b\n"),
        ("a.csv", "prompt;completion\r\na;b"),
        ("a.csv", "\u{feff}completion\tprompt\nb\ta\n"),
        ("a.tsv", "prompt\tcompletion\n\"a\"\tb\n"),
    ] {
        assert_eq!(read(name, text).unwrap(), ["ab|b$"], "{text}");
    }
    let quoted = "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"x\"\"}, {\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"y\"\"}]\"\n";
    assert_eq!(read("a.csv", quoted).unwrap(), ["<u>x.<a>y.|y."]);
    for (text, expected) in [
        (
            "prompt,completion\na,b\n\"c\nd\",e,f\n",
            "a.csv:3: it has 3 cells, but the first line names 2",
        ),
        ("a,b\nc,d\n", "a.csv: no known keys"),
        ("text,text\na,b\n", "two columns are called \"text\""),
        ("text\n", "a.csv has no data"),
        ("", "a.csv has no data"),
        ("text\n\"a\nb\n", "a.csv:2: the quotation mark"),
    ] {
        let error = read("a.csv", text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_no_utf8_is_named() {
    let utf16: Vec<u8> = "\u{feff}{\"text\": \"ä\"}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for name in ["a.jsonl", "a.csv", "a.txt"] {
        let error = read(name, &utf16).unwrap_err();
        assert!(error.contains(name) && error.contains("UTF-16"), "{error}");
    }
    for (name, text) in [
        ("a.jsonl", &b"{\"text\": \"ab\"}\n{\"text\": \"\xe4\"}"[..]),
        ("a.csv", b"text\n\xe4\n"),
        ("a.txt", b"a\n\xe4"),
    ] {
        let error = read(name, text).unwrap_err();
        assert!(
            error.contains(name) && error.contains("line 2 is not UTF-8"),
            "{error}"
        );
    }
    assert_eq!(read("a.txt", "\u{feff}abc").unwrap(), ["abc|bc"]);
}

#[test]
fn a_lone_surrogate_is_named_with_its_line() {
    let error = read("a.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"\\ud83d x\"}\n").unwrap_err();
    assert!(
        error.starts_with("a.jsonl:2: not JSON: ") && error.contains("surrogate"),
        "{error}"
    );
}

#[test]
fn conversations_are_read_under_the_names_people_give_them() {
    let expected = ["<s>S.<u>x.<a>y.|y."];
    let turns = r#"{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}"#;
    for line in [
        format!(r#"{{"conversations": [{{"from": "system", "value": "S"}}, {turns}]}}"#),
        format!(r#"{{"conversations": [{turns}], "system": "S"}}"#),
        format!(r#"{{"messages": [{turns}], "system": "S"}}"#),
        r#"{"conversations": [{"role": "system", "content": "S"}, {"role": "user", "content": "x"},
            {"role": "assistant", "content": "y"}]}"#
            .to_owned(),
    ] {
        assert_eq!(read("a.jsonl", &line).unwrap(), expected, "{line}");
    }
    let calls = r#"{"conversations": [{"from": "human", "value": "x"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
        {"from": "observation", "value": "2"}, {"from": "gpt", "value": "y", "weight": 0}]}"#;
    let call = "[{'type': 'function', 'function': {'name': 'f', 'arguments': {'a': 1}}}].";
    let [row] = &read("a.jsonl", calls).unwrap()[..] else {
        panic!("one row");
    };
    let (text, learnt) = row.split_once('|').unwrap();
    assert!(
        text.starts_with("<u>x.<a>[{") && text.ends_with("].<t>2.<a>y."),
        "{text}"
    );
    assert_eq!(learnt.replace('"', "'"), call);
    for (turn, expected) in [
        (
            r#"{"from": "narrator", "value": "x"}"#,
            "message 2: its \"from\" is \"narrator\", which is none of human",
        ),
        (
            r#"{"from": "function_call", "value": "f(1)"}"#,
            "message 2: its call of a function is not JSON",
        ),
        (r#"{"value": "x"}"#, "message 2: it has no role"),
    ] {
        let line = format!(r#"{{"conversations": [{{"from": "human", "value": "x"}}, {turn}]}}"#);
        let error = read("a.jsonl", line).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn instructions_go_through_the_chat_template() {
    for (line, expected) in [
        (r#"{"instruction": "i", "output": "o"}"#, "<u>i.<a>o.|o."),
        (
            r#"{"instruction": "i", "input": "", "output": "o"}"#,
            "<u>i.<a>o.|o.",
        ),
        (
            r#"{"instruction": "i", "input": "n", "output": "o", "system": "s", "history": [["q", "a"]], "text": "x"}"#,
            "<s>s.<u>q.<a>a.<u>i\nn.<a>o.|a.o.",
        ),
    ] {
        assert_eq!(read("a.jsonl", line).unwrap(), [expected]);
    }
    let error = read(
        "a.jsonl",
        r#"{"instruction": "i", "output": "o", "history": ["q"]}"#,
    )
    .unwrap_err();
    assert!(error.contains("\"history\" holds a string"), "{error}");

    let alpaca = Model::with_template(builtin_template("alpaca").unwrap());
    let file = written(
        "a.jsonl",
        "{\"instruction\": \"i\", \"output\": \"o\"}\n{\"instruction\": \"i\", \"input\": \"n\", \"output\": \"o\"}\n",
    );
    let request = "Write a response that appropriately completes the request.";
    let expected = [
        format!(
            "Below is an instruction that describes a task. {request}\n\n### Instruction:\ni\n\n### Response:\no|o"
        ),
        format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. {request}\
             \n\n### Instruction:\ni\n\n### Input:\nn\n\n### Response:\no|o"
        ),
    ];
    assert_eq!(alpaca.rows(&Sources::file(&file.path)).unwrap(), expected);
    let without = Model {
        template: None,
        ..Model::new()
    };
    let error = without.rows(&Sources::file(&file.path)).unwrap_err();
    assert!(
        error.contains("--chat-template") && error.contains("alpaca"),
        "{error}"
    );
}

#[test]
fn a_prompt_of_messages_is_not_learnt() {
    let line = r#"{"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
        {"role": "user", "content": "x"}], "completion": [{"role": "assistant", "content": "y"}]}"#;
    assert_eq!(read("a.jsonl", line).unwrap(), ["<u>q.<a>a.<u>x.<a>y.|y."]);
    let error = read("a.jsonl", r#"{"prompt": [], "completion": "y"}"#).unwrap_err();
    assert!(
        error.contains("\"prompt\" is a list and \"completion\" is not"),
        "{error}"
    );
}

#[test]
fn an_unknown_row_is_told_what_it_may_be() {
    for (line, expected) in [
        (
            r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#,
            "--columns completion=chosen",
        ),
        (
            r#"{"chosen": [{"role": "user", "content": "x"}], "rejected": [{"role": "user", "content": "x"}]}"#,
            "--columns messages=chosen",
        ),
        (
            r#"{"turns": [{"role": "user", "content": "x"}]}"#,
            "--columns messages=turns",
        ),
        (
            r#"{"version": 1, "data": [{"text": "x"}]}"#,
            "\"data\" holds a list of objects",
        ),
        (
            r#"{"q": "x", "a": "y"}"#,
            "prompt=question,completion=answer (found: a, q)",
        ),
        (
            "[3]",
            "a row is an object with named columns, and this is a number",
        ),
    ] {
        let error = read("a.jsonl", line).unwrap_err();
        assert!(
            error.starts_with("a.jsonl:1") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn named_columns_come_before_others() {
    let file = written(
        "a.jsonl",
        r#"{"messages": [], "text": "whole", "a": "x", "b": "y"}"#,
    );
    let rows = |named: &[(&str, &str)]| {
        Model::new().rows(&Sources::file(&file.path).with_columns(columns(named)))
    };
    assert_eq!(rows(&[("text", "text")]).unwrap(), ["whole|hole$"]);
    assert_eq!(
        rows(&[("prompt", "a"), ("completion", "b")]).unwrap(),
        ["xy|y$"]
    );
    // What is read as something else is no text any more.
    let swapped = rows(&[("prompt", "a"), ("completion", "text")]).unwrap();
    assert_eq!(swapped, ["xwhole|whole$"]);
}

#[test]
fn keys_that_are_not_read_are_told_once() {
    let file = written(
        "a.jsonl",
        "{\"text\": \"ab\", \"id\": 1, \"none\": null}\n{\"text\": \"ab\", \"tools\": [], \"id\": 2}\n",
    );
    let data = Model::new().read(&Sources::file(&file.path)).unwrap();
    let [warning] = &told(&data)[..] else {
        panic!("one warning for the file: {:?}", told(&data));
    };
    assert!(
        warning.ends_with("a.jsonl: not read: id, tools"),
        "{warning}"
    );
}

#[test]
fn several_files_and_folders_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "b.jsonl",
            "{\"text\": \"b1\"}\n{\"text\": \"b2\"}\n{\"text\": \"b3\"}\n{\"text\": \"b4\"}\n",
        ),
        ("a.csv", "text\na1\na2\n"),
        ("README.md", "# Data"),
        (".hidden.jsonl", "x"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let model = Model::new();
    let folder = Sources::file(dir.path());
    let data = model.read(&folder).unwrap();
    assert!(
        told(&data)[0].ends_with("not read: README.md"),
        "{:?}",
        told(&data)
    );
    let texts = |sources: &Sources| {
        let rows = model.rows(sources).unwrap().into_iter();
        rows.map(|row| row[..2].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts(&folder), ["a1", "a2", "b1", "b2", "b3", "b4"]);
    let source = |name: &str| Source::new(dir.path().join(name));
    let both = Sources::new([
        source("b.jsonl").with_weight(0.5).unwrap(),
        source("a.csv").with_weight(2.0).unwrap(),
    ]);
    let taken = texts(&both);
    assert_eq!(taken.len(), 6);
    assert!(
        ["b1", "b2"].contains(&&*taken[0]) && ["b3", "b4"].contains(&&*taken[1]),
        "{taken:?}"
    );
    assert_eq!(taken[2..], ["a1", "a1", "a2", "a2"]);
    let once = Sources::new([source("b.jsonl"), source("a.csv")]);
    let fingerprint = |sources| model.read(sources).unwrap().fingerprint().unwrap();
    assert_ne!(fingerprint(&both), fingerprint(&once));
    for weight in [0.0, -1.0, f64::NAN, 1e9] {
        let error = source("a.csv").with_weight(weight).unwrap_err().to_string();
        assert!(error.contains("above 0"), "{error}");
    }
    let nothing = Sources::new([source("a.csv").with_weight(1e-9).unwrap()]);
    let error = model.read(&nothing).unwrap_err();
    assert!(error.contains("take none of the rows"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = model.read(&Sources::file(empty.path())).unwrap_err();
    assert!(
        error.contains("the folder has no file that is read"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.jsonl");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    for path in [Path::new("/dev/zero"), &pipe] {
        let error = Model::new().read(&Sources::file(path)).unwrap_err();
        assert!(error.contains("a device or a pipe"), "{error}");
    }
}
