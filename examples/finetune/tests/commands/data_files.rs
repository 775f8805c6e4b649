//! Data in the formats people have, from the command line.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use qlora_test_support::read_fixture;

use crate::finetune;
use crate::support::{FINETUNE, Place, Run};

/// Evaluates on data that is named in the given words.
fn eval(place: &Place, words: &[&str]) -> Run {
    let mut command = Command::new(FINETUNE);
    command
        .arg("eval")
        .arg("--model")
        .arg(place.path("tiny_llama"));
    command.args(["--quant", "none", "--json"]).args(words);
    command.current_dir(place.path(""));
    crate::support::run(&mut command)
}

/// The number of target tokens, and the loss.
fn measured(run: Run) -> (u64, f64) {
    let json = run.ok().last_json();
    (
        json["tokens"].as_u64().unwrap(),
        json["nll"].as_f64().unwrap(),
    )
}

#[test]
fn formats_give_the_same_numbers() {
    let place = Place::new();
    place.model("tiny_llama");
    place.file(
        "a.jsonl",
        "{\"q\": \"1+1=\", \"a\": \"2\"}\n{\"q\": \"2+2=\", \"a\": \"4\"}\n",
    );
    place.file(
        "a.json",
        "[{\"q\": \"1+1=\", \"a\": \"2\"},\n {\"q\": \"2+2=\", \"a\": \"4\"}]",
    );
    place.file("a.csv", "q;a\r\n1+1=;2\r\n2+2=;4\r\n");
    place.file("chats.jsonl", read_fixture("data/chats.jsonl"));
    place.file("chats.parquet", read_fixture("data/zstd.parquet"));
    place.file("chats.jsonl.zst", read_fixture("data/chats.jsonl.zst"));
    for names in [
        &["a.jsonl", "a.json", "a.csv"][..],
        &["chats.jsonl", "chats.parquet", "chats.jsonl.zst"],
    ] {
        let columns = ["--columns", "prompt=q,completion=a"];
        let all = names.iter().map(|name| {
            let words = [&["--data", name][..], &columns].concat();
            measured(eval(&place, &words))
        });
        let all: Vec<_> = all.collect();
        assert!(
            all[0].0 > 0 && all.iter().all(|one| *one == all[0]),
            "{all:?}"
        );
    }
    let (tokens, _) = measured(eval(
        &place,
        &[
            "--data",
            "a.json",
            "--data",
            "a.csv",
            "--columns",
            "prompt=q",
            "--columns",
            "completion=a",
        ],
    ));
    assert_eq!(tokens, 8);
}

#[test]
fn what_cannot_be_read_is_refused_in_one_line() {
    let place = Place::new();
    place.model("tiny_llama");
    place.file("notes.md", "# Notes");
    place.file("a.json", "[{\"text\": \"ab\"},\n {\"text\": 1}]");
    place.file("a.csv", "q,a\n1,2\n");
    std::fs::create_dir(place.path("empty")).unwrap();
    for (words, needles) in [
        (
            &["--data", "notes.md"][..],
            &["notes.md", ".jsonl", ".txt"][..],
        ),
        (
            &["--data", "a.json"],
            &["a.json:2 (row 2)", "\"text\" is a number"],
        ),
        (
            &["--data", "a.csv"],
            &["a.csv", "--columns", "(found: q, a)"],
        ),
        (&["--data", "empty"], &["empty", "no file that is read"]),
        (&["--data", "none.jsonl"], &["none.jsonl", "No such file"]),
        (
            &["--data", "a.csv", "--columns", "answer=a"],
            &["--columns", "answer is not read"],
        ),
        (
            &["--data", "a.csv", "--columns", "answer"],
            &["--columns", "prompt=question"],
        ),
        (&["--data", "hf://models/x"], &["hf://datasets/OWNER/NAME"]),
        (
            &["--data", "hf://datasets/a/b"],
            &["hf://datasets/a/b", "HF_ENDPOINT"],
        ),
    ] {
        eval(&place, words).refused(needles);
    }
}

#[test]
fn weights_and_several_files_train() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let rows = place.rows(4);
    let csv = place.file("more.csv", "text,source\nsome more text,x\nand more,y\n");
    let train = |output: &str, weights: &str| {
        finetune!(
            "train",
            "--model",
            &model,
            "--quant",
            "none",
            "--data",
            &rows,
            "--data",
            &csv,
            "--data-weights",
            weights,
            "--eval-data",
            &csv,
            "--steps",
            "1",
            "--output",
            place.path(output)
        )
    };
    let run = train("both", "0.5,3").ok();
    assert!(run.stdout.contains("on 8 rows"), "{}", run.stdout);
    assert!(
        run.stderr.contains("more.csv: not read: source"),
        "{}",
        run.stderr
    );
    train("one", "0.5").refused(&["--data-weights", "1 weights", "2 files"]);
    train("zero", "0,1").refused(&["--data-weights", "above 0"]);
    let settings = std::fs::read_to_string(place.path("both").join("run.json")).unwrap();
    assert!(settings.contains("0.5"), "{settings}");

    // The same from a config file, with an array for a flag that is given several times.
    let config = format!(
        "data = [{rows:?}, {csv:?}]\ndata-weights = [0.5, 3]\nmodel = {model:?}\noutput = {:?}\nsteps = 1\n",
        place.path("config")
    );
    let config = place.file("run.toml", config);
    let run = finetune!("train", "--config", config, "--quant", "none").ok();
    assert!(run.stdout.contains("on 8 rows"), "{}", run.stdout);
}

/// A server with the answers of the Hub to a data set's list of files and to its files, of which large ones lie elsewhere.
/// What is asked is kept.
fn hub(parquet: Vec<u8>, asked: Arc<Mutex<Vec<String>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let own = address.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = answer(stream, &own, &parquet, &asked);
        }
    });
    address
}

fn answer(
    mut stream: TcpStream,
    address: &str,
    parquet: &[u8],
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut first_byte_alone = false;
    for line in lines {
        let line = line?;
        first_byte_alone |= line.eq_ignore_ascii_case("range: bytes=0-0");
        if line.is_empty() {
            break;
        }
    }
    asked.lock().unwrap().push(path.clone());
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let body: Vec<u8>;
    let head = match path.as_str() {
        "/api/datasets/people/notes/revision/main" => {
            body = format!(
                "{{\"_id\":\"1\",\"id\":\"people/notes\",\"sha\":\"{commit}\",\"private\":false,\"tags\":[],\"siblings\":[\
                 {{\"rfilename\":\".gitattributes\"}},{{\"rfilename\":\"README.md\"}},\
                 {{\"rfilename\":\"data/test-00000-of-00001.parquet\"}},\
                 {{\"rfilename\":\"data/train-00000-of-00001.parquet\"}}]}}"
            )
            .into_bytes();
            "200 OK\r\ncontent-type: application/json".to_owned()
        }
        "/datasets/people/notes/resolve/main/data/train-00000-of-00001.parquet" => {
            body = Vec::new();
            format!(
                "302 Found\r\nlocation: {address}/elsewhere/1\r\nx-repo-commit: {commit}\r\nx-linked-etag: \"feed\"\r\n\
                 x-linked-size: {}",
                parquet.len()
            )
        }
        "/elsewhere/1" => {
            let len = if first_byte_alone { 1 } else { parquet.len() };
            body = parquet[..len].to_vec();
            format!(
                "206 Partial Content\r\ncontent-range: bytes 0-{}/{}\r\netag: \"feed\"",
                len - 1,
                parquet.len()
            )
        }
        _ => {
            body = b"{\"error\":\"Repository not found\"}".to_vec();
            "404 Not Found\r\nx-error-code: RepoNotFound".to_owned()
        }
    };
    write!(
        stream,
        "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}

/// Evaluates on data of the Hub at `address`, whose cache is in `home`.
fn eval_from_hub(place: &Place, address: &str, home: &Path, name: &str) -> Run {
    let mut command = Command::new(FINETUNE);
    command
        .arg("eval")
        .arg("--model")
        .arg(place.path("tiny_llama"));
    command.args(["--quant", "none", "--json", "--data", name]);
    command.env("HF_ENDPOINT", address).env("HF_HOME", home);
    command
        .env_remove("HF_TOKEN")
        .env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command.output().expect("the binary runs").into()
}

#[test]
fn a_data_set_of_the_hub_is_fetched_once() {
    let place = Place::new();
    place.model("tiny_llama");
    place.file("chats.jsonl", read_fixture("data/chats.jsonl"));
    let expected = measured(eval(&place, &["--data", "chats.jsonl"]));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let address = hub(read_fixture("data/snappy.parquet"), asked.clone());
    let home = place.path("home");
    let from_hub = |address: &str, name: &str| eval_from_hub(&place, address, &home, name);
    let name = "hf://datasets/people/notes";
    let run = from_hub(&address, name);
    assert!(
        run.stderr.contains("data/train-00000-of-00001.parquet"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("test-"), "{}", run.stderr);
    assert_eq!(measured(run), expected);
    let downloads = || {
        asked
            .lock()
            .unwrap()
            .iter()
            .filter(|path| path.contains("elsewhere"))
            .count()
    };
    let after_one = downloads();
    assert!(after_one > 0);
    assert_eq!(measured(from_hub(&address, name)), expected);
    assert_eq!(downloads(), after_one);
    // Without a network a file that is there already is found by its name.
    let file = "hf://datasets/people/notes/data/train-00000-of-00001.parquet";
    assert_eq!(measured(from_hub("http://127.0.0.1:9", file)), expected);
    from_hub(&address, "hf://datasets/people/none").refused(&["hf://datasets/people/none", "404"]);
    from_hub(&address, "hf://datasets/people/notes/x").refused(&["no file or folder x"]);
}
