//! `finetune serve`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use qlora_test_support::fixture;
use serde_json::{Value, json};

use crate::finetune;
use crate::support::{FINETUNE, Place, Run};

/// A server that is ready.
struct Served {
    child: Child,
    address: String,
    /// What else it printed before it was.
    lines: Vec<String>,
}

/// What it answered.
#[derive(Debug)]
struct Answered {
    status: u16,
    head: String,
    body: String,
}

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

impl Served {
    fn start(model: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(FINETUNE);
        command.args(["serve", "--port", "0", "--model"]).arg(model);
        command.args(flags).env_remove("FINETUNE_API_KEY");
        #[cfg(unix)]
        crate::interrupt::with_default_signals(&mut command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut before = Vec::new();
        let address = loop {
            let Some(line) = lines.next() else {
                panic!("{:#?}", Run::from(child.wait_with_output().unwrap()));
            };
            let line = line.unwrap();
            if let Some(rest) = line.strip_prefix("Listening at http://") {
                break rest.split_once('/').unwrap().0.to_owned();
            }
            before.push(line);
        };
        // It is not to end because nobody reads.
        thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address,
            lines: before,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends the head of a request and a body, and returns the connection.
    fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses need not read all of it.
        let _ = stream.write_all(body);
        stream
    }

    fn get(&self, path: &str) -> Answered {
        read(self.send("GET", path, &[], b""))
    }

    fn post_bytes(&self, path: &str, body: &[u8]) -> Answered {
        read(self.send("POST", path, &[JSON], body))
    }

    fn post(&self, path: &str, body: &Value) -> Answered {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    fn begin(&self, path: &str, body: &Value) -> TcpStream {
        self.send("POST", path, &[JSON], body.to_string().as_bytes())
    }

    /// The text that follows a prompt.
    fn completion(&self, body: &Value) -> String {
        let answered = self.post(COMPLETIONS, body);
        assert_eq!(answered.status, 200, "{answered:?}");
        text(&answered.json()["choices"][0]["text"])
    }

    fn requests(&self) -> u64 {
        self.get("/health").json()["requests"].as_u64().unwrap()
    }

    fn wait_until_idle(&self) {
        let started = Instant::now();
        while self.requests() > 0 {
            assert!(started.elapsed() < PATIENCE, "a request is still there");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const JSON: &str = "Content-Type: application/json";
const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn read(mut stream: TcpStream) -> Answered {
    let mut bytes = Vec::new();
    // A connection that is cut after the answer has given it.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{text:?}"));
    let head = head.to_lowercase();
    let body = if head.contains("transfer-encoding: chunked") {
        unchunked(body)
    } else {
        body.to_owned()
    };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answered { status, head, body }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole += &rest[..size];
        body = rest[size..].strip_prefix("\r\n").unwrap();
    }
    panic!("a stream that does not end: {whole}");
}

impl Answered {
    fn json(&self) -> Value {
        assert!(self.head.contains("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The parts of a stream, which is whole.
    fn parts(&self) -> Vec<Value> {
        assert!(self.head.contains("text/event-stream"), "{self:?}");
        let mut parts: Vec<&str> = self.body.split_terminator("\n\n").collect();
        assert_eq!(parts.pop(), Some("data: [DONE]"), "{self:?}");
        let data = parts
            .into_iter()
            .map(|part| part.strip_prefix("data: ").unwrap());
        data.map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    /// Checks that it is an error as OpenAI's clients read it, with all of `needles`.
    #[track_caller]
    fn refused(&self, status: u16, needles: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        let error = &self.json()["error"];
        assert!(error["type"].is_string(), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(
            !message.contains('\n') && !message.ends_with('.'),
            "{message}"
        );
        for needle in needles {
            assert!(message.contains(needle), "`{needle}` is not in: {message}");
        }
    }
}

#[track_caller]
fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

fn with(mut body: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

fn greedy(prompt: &str, max_tokens: usize) -> Value {
    json!({ "model": "tiny_llama", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0 })
}

fn generated(model: &Path, prompt: &str, flags: &[&str]) -> String {
    let run = finetune!("generate", "--model", model, "--prompt", prompt; flags).ok();
    run.stdout.strip_suffix('\n').unwrap().to_owned()
}

/// Whole, in a stream, of the base and of two adapters, alone and among others that come while it runs: the text of `generate`.
#[test]
fn an_answer_is_that_of_generate_however_it_is_asked_for() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let trained = place.path("run");
    let rows = place.rows(4);
    finetune!("train", "--model", &model, "--data", &rows, "--output", &trained; ["--steps", "20", "--lr", "2e-2"])
        .ok();
    let peft = fixture("peft_adapter");
    let (trained, peft) = (trained.to_str().unwrap(), peft.to_str().unwrap());
    let adapters = [format!("trained={trained}"), format!("peft={peft}")];
    let flags = [
        "--adapter",
        &adapters[0],
        "--adapter",
        &adapters[1],
        "--max-batch",
        "5",
    ];
    let served = Served::start(&model, &flags);
    assert!(
        served
            .lines
            .iter()
            .any(|line| line.contains("take at most")),
        "{:?}",
        served.lines
    );
    let listed = served.get("/v1/models").json();
    let names = listed["data"].as_array().unwrap().iter();
    let names: Vec<String> = names.map(|model| text(&model["id"])).collect();
    assert_eq!(names, ["tiny_llama", "trained", "peft"]);
    assert_eq!(served.get("/v1/models/peft").json()["id"], "peft");
    served
        .get("/v1/models/other")
        .refused(404, &["other", "tiny_llama, trained, peft"]);

    let prompts = [
        "hello",
        "a much longer prompt than that one, so that rows differ",
        "3 and 9? ",
    ];
    let asked = [
        ("tiny_llama", vec![]),
        ("trained", vec!["--adapter", trained]),
        ("peft", vec!["--adapter", peft]),
    ];
    let mut expected = Vec::new();
    for (name, flags) in &asked {
        for (prompt, length) in prompts.iter().zip(["24", "40", "32"]) {
            let flags = [&flags[..], &["--max-tokens", length]].concat();
            let body = with(
                greedy(prompt, length.parse().unwrap()),
                json!({ "model": name }),
            );
            expected.push((body, generated(&model, prompt, &flags)));
        }
    }
    let texts: BTreeSet<&String> = expected.iter().map(|(_, text)| text).collect();
    assert_eq!(texts.len(), expected.len(), "the answers differ: {texts:?}");
    for (body, text) in &expected {
        assert_eq!(&served.completion(body), text, "{body}");
        let streamed = served.post(COMPLETIONS, &with(body.clone(), json!({ "stream": true })));
        let parts = streamed.parts();
        assert_eq!(&joined(&parts, "text"), text, "{body}");
        // Not all at the end: one part has the reason that it ends, and the others a letter at least.
        assert!(parts.len() > 3 || text.chars().count() < 3, "{parts:?}");
    }
    thread::scope(|scope| {
        for (body, text) in expected.iter().chain(&expected) {
            let served = &served;
            scope.spawn(move || assert_eq!(&served.completion(body), text, "{body}"));
        }
    });
}

/// The text of a stream of completions, or of the deltas of a chat.
fn joined(parts: &[Value], key: &str) -> String {
    let choices = parts.iter().filter_map(|part| part["choices"].get(0));
    let texts = choices.map(|choice| match key {
        "text" => text(&choice["text"]),
        key => choice["delta"][key].as_str().unwrap_or_default().to_owned(),
    });
    texts.collect()
}

#[test]
fn a_chat_is_that_of_generate_and_tells_what_it_used() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let flags = ["--max-tokens", "30"];
    let question = "hello, who is there, and what is the weather like where you are today?";
    let asked = format!("{question}\n");
    let expected = crate::generate::chat(&model, &flags, &asked).ok().stdout;
    let expected = expected.strip_suffix('\n').unwrap();
    let served = Served::start(&model, &[]);
    let body = json!({
        "model": "tiny_llama",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": question }] }],
        "max_completion_tokens": 30,
        "temperature": 0,
        "user": "somebody",
        "tools": null,
    });
    let whole = served.post(CHAT, &body).json();
    let choice = &whole["choices"][0];
    assert_eq!(text(&choice["message"]["content"]), expected);
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(choice["finish_reason"], "length");
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 30);
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        30 + usage["prompt_tokens"].as_u64().unwrap()
    );

    // The second time, the model has seen all of the prompt but what it is given in any case.
    let mut usage = usage.clone();
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    let prompt_tokens = usage["prompt_tokens"].as_u64().unwrap();
    usage["prompt_tokens_details"]["cached_tokens"] = (prompt_tokens - 9).into();
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let parts = served.post(CHAT, &with(body.clone(), options)).parts();
    assert_eq!(joined(&parts, "content"), expected);
    assert_eq!(parts[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(parts[0]["usage"], Value::Null);
    let (last, before) = parts.split_last().unwrap();
    assert_eq!((&last["usage"], &last["choices"]), (&usage, &json!([])));
    let end = before.last().unwrap();
    assert_eq!(end["choices"][0]["finish_reason"], "length");

    // A text in the middle ends it, though tokens straddle it; it is no part of the answer.
    let middle: Vec<char> = expected.chars().collect();
    let end: String = middle[middle.len() / 2..].iter().take(3).collect();
    let stopped = with(body, json!({ "stop": ["not there", end] }));
    let before = &expected[..expected.find(&end).unwrap()];
    let whole = served.post(CHAT, &stopped).json();
    assert_eq!(text(&whole["choices"][0]["message"]["content"]), before);
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let parts = served
        .post(CHAT, &with(stopped, json!({ "stream": true })))
        .parts();
    assert_eq!(joined(&parts, "content"), before);
}

#[test]
fn choices_follow_their_seeds() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let served = Served::start(&model, &["--max-batch", "4"]);
    let sampled = json!({ "temperature": 1.5, "top_k": 50, "top_p": 0.95, "seed": 7 });
    let body = with(greedy("hello", 12), sampled);
    let flags = |seed| {
        [
            "--temperature",
            "1.5",
            "--top-k",
            "50",
            "--top-p",
            "0.95",
            "--max-tokens",
            "12",
            "--seed",
            seed,
        ]
    };
    let answered = served
        .post(COMPLETIONS, &with(body.clone(), json!({ "n": 3 })))
        .json();
    for (place, seed) in ["7", "8", "9"].into_iter().enumerate() {
        let choice = &answered["choices"][place];
        assert_eq!(choice["index"], place);
        assert_eq!(
            text(&choice["text"]),
            generated(&model, "hello", &flags(seed))
        );
    }
    // Two prompts with two choices each; a prompt may be tokens.
    let prompts = json!({ "prompt": ["hello", "bye"], "n": 2 });
    let answered = served
        .post(COMPLETIONS, &with(body.clone(), prompts))
        .json();
    assert_eq!(answered["choices"].as_array().unwrap().len(), 4);
    let bye = text(&answered["choices"][3]["text"]);
    assert_eq!(bye, generated(&model, "bye", &flags("8")));
    let tokens = served.post(
        COMPLETIONS,
        &with(greedy("", 4), json!({ "prompt": [5, 6, 7] })),
    );
    assert_eq!(tokens.json()["usage"]["prompt_tokens"], 3);
}

/// Every request that cannot be served says what, where and what to do; none of them harms the server.
#[test]
fn what_is_not_served_is_refused_by_its_name() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let served = Served::start(&model, &["--max-body", "65536", "--context", "64"]);
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{\"model\":",
        "\u{0}",
        &"[".repeat(5000),
    ] {
        served
            .post_bytes(CHAT, body.as_bytes())
            .refused(400, &["the request is"]);
    }
    served
        .post_bytes(CHAT, b"{\"model\": \"\xff\"}")
        .refused(400, &["no JSON"]);
    let chat = json!({
        "model": "tiny_llama",
        "messages": [{ "role": "user", "content": "hello" }],
        "max_tokens": 2,
        "temperature": 0,
    });
    for (more, needles) in [
        (
            json!({ "model": null }),
            &["`model` is missing", "tiny_llama"][..],
        ),
        (json!({ "model": 3 }), &["`model`", "a string", "3"]),
        (json!({ "messages": null }), &["`messages` is missing"]),
        (json!({ "messages": [] }), &["no message"]),
        (
            json!({ "messages": "hello" }),
            &["`messages` must be a list"],
        ),
        (json!({ "messages": [1] }), &["`messages[0]`", "an object"]),
        (
            json!({ "messages": [{ "content": "x" }] }),
            &["`messages[0].role` is missing"],
        ),
        (
            json!({ "messages": [{ "role": "user" }] }),
            &["`messages[0].content` is missing"],
        ),
        (
            json!({ "messages": [{ "role": "tool", "content": "x" }] }),
            &["`messages[0].role`", "tool"],
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "x", "name": "y" }] }),
            &["`messages[0].name`"],
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] }),
            &["`messages[0].content[0].type`", "text"],
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "x ".repeat(200) }] }),
            &["tokens", "64"],
        ),
        (json!({ "max_tokens": 0 }), &["`max_tokens`", "at least 1"]),
        (json!({ "max_tokens": 1.5 }), &["`max_tokens`", "1.5"]),
        (
            json!({ "max_completion_tokens": 3 }),
            &["`max_tokens`", "`max_completion_tokens`"],
        ),
        (json!({ "temperature": -1 }), &["`temperature`", "-1"]),
        (json!({ "temperature": "hot" }), &["`temperature`", "hot"]),
        (json!({ "top_p": 0 }), &["`top_p`", "above 0"]),
        (json!({ "top_k": 0 }), &["`top_k`"]),
        (json!({ "n": 9 }), &["`n`", "from 1 to 8"]),
        (json!({ "seed": "x" }), &["`seed`"]),
        (json!({ "stop": "" }), &["`stop`"]),
        (json!({ "stop": vec!["x"; 17] }), &["`stop`", "17"]),
        (json!({ "stream": "yes" }), &["`stream`"]),
        (
            json!({ "stream_options": { "include_usage": true } }),
            &["`stream_options`", "`stream`"],
        ),
        (
            json!({ "stream": true, "stream_options": { "x": 1 } }),
            &["`stream_options.x`"],
        ),
        (json!({ "logprobs": true }), &["`logprobs` is not served"]),
        (
            json!({ "response_format": { "type": "json_object" } }),
            &["`response_format`"],
        ),
        (
            json!({ "tools": [{ "type": "function" }] }),
            &["`tools` is not served"],
        ),
        (json!({ "tool_choice": "required" }), &["`tool_choice`"]),
        (json!({ "presence_penalty": 0.5 }), &["`presence_penalty`"]),
        (json!({ "logit_bias": { "5": 1 } }), &["`logit_bias`"]),
        (
            json!({ "grammar": "x" }),
            &["`grammar` is not known", "leave it out"],
        ),
    ] {
        let body = with(chat.clone(), more);
        served.post(CHAT, &body).refused(400, needles);
    }
    for (more, needle) in [
        (json!({ "prompt": null }), "`prompt` is missing"),
        (json!({ "prompt": [] }), "`prompt`"),
        (json!({ "prompt": ["x", 1] }), "`prompt`"),
        (json!({ "prompt": [512] }), "below 512"),
        (json!({ "prompt": [-1] }), "-1"),
        (json!({ "prompt": [[]] }), "no token"),
        (json!({ "prompt": vec!["x"; 200] }), "128"),
        (json!({ "echo": true }), "`echo`"),
        (json!({ "suffix": "x" }), "`suffix`"),
        (json!({ "logprobs": 1 }), "`logprobs`"),
        (json!({ "best_of": 2 }), "`best_of`"),
        (json!({ "messages": [] }), "`messages` is not known"),
    ] {
        served
            .post(COMPLETIONS, &with(greedy("x", 2), more))
            .refused(400, &[needle]);
    }
    let other = with(chat.clone(), json!({ "model": "gpt-4" }));
    served
        .post(CHAT, &other)
        .refused(404, &["gpt-4", "tiny_llama"]);
    // What says nothing is taken.
    let nothing = json!({
        "logprobs": false, "top_logprobs": 0, "response_format": { "type": "text" }, "tools": [], "tool_choice": "auto",
        "presence_penalty": 0, "logit_bias": {}, "n": 1, "stop": null, "store": false, "unknown": null,
    });
    let answered = served.post(CHAT, &with(chat.clone(), nothing));
    assert_eq!(answered.status, 200, "{answered:?}");

    // Addresses, methods, kinds of bodies, and how much of them.
    served
        .get("/v2/models")
        .refused(404, &["/v2/models", "/v1/chat/completions"]);
    served.get("/v1/models/%ff").refused(400, &["not UTF-8"]);
    served.get(CHAT).refused(405, &[CHAT, "GET"]);
    let body = chat.to_string();
    for kind in [&[][..], &["Content-Type: text/plain"]] {
        let answered = read(served.send("POST", CHAT, kind, body.as_bytes()));
        answered.refused(415, &["application/json"]);
    }
    let huge = with(chat.clone(), json!({ "user": "x".repeat(70_000) })).to_string();
    served
        .post_bytes(CHAT, huge.as_bytes())
        .refused(413, &["65536", "--max-body"]);
    let mut chunked = served.connect();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n",
        served.address
    );
    chunked.write_all(head.as_bytes()).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 70_000, "x".repeat(70_000));
    let _ = chunked.write_all(chunk.as_bytes());
    read(chunked).refused(413, &["65536"]);
    let mut named = served.connect();
    named
        .write_all(b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    read(named).refused(403, &["localhost", "--api-key"]);
    // The answer stops where the context does.
    let long = served
        .post(CHAT, &with(chat, json!({ "max_tokens": 1000 })))
        .json();
    let usage = &long["usage"];
    let used = usage["total_tokens"].as_u64().unwrap();
    assert!(used <= 65, "{usage}");
    served.wait_until_idle();
}

#[test]
fn a_key_is_asked_for_where_one_is_set() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    finetune!("serve", "--host", "0.0.0.0", "--model", &model).refused(&[
        "--host 0.0.0.0",
        "--api-key",
        "FINETUNE_API_KEY",
    ]);
    let served = Served::start(&model, &["--host", "0.0.0.0", "--api-key", "s3cret"]);
    served.get("/v1/models").refused(401, &["Authorization"]);
    let models = |key: &str| {
        let key = format!("Authorization: Bearer {key}");
        read(served.send("GET", "/v1/models", &[&key], b""))
    };
    models("other").refused(401, &["key"]);
    assert_eq!(models("s3cret").status, 200);
    // Whoever watches over the server, and who opens the page to type the key, has none yet.
    assert_eq!(served.get("/health").status, 200);
    let page = served.get("/");
    assert_eq!(page.status, 200);
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'"),
        "{page:?}"
    );
    assert!(!page.body.contains("http:") && !page.body.contains("https:"));
}

/// A model with a context that no answer fills.
fn endless_model(place: &Place) -> PathBuf {
    let model = place.model("tiny_llama");
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = json!(i32::MAX);
    fs::write(&path, config.to_string()).unwrap();
    model
}

#[test]
fn whoever_goes_away_or_does_not_read_holds_nobody_up() {
    let place = Place::new();
    let model = endless_model(&place);
    let endless = with(greedy("hello", 2_000_000_000), json!({ "stream": true }));
    let short = || generated(&model, "hello", &["--max-tokens", "8"]);
    let served = Served::start(&model, &["--max-batch", "1", "--max-queue", "1"]);
    let mut running = served.begin(COMPLETIONS, &endless);
    running.read_exact(&mut [0; 16]).unwrap();
    let waiting = served.begin(COMPLETIONS, &endless);
    let started = Instant::now();
    while served.requests() < 2 {
        assert!(started.elapsed() < PATIENCE, "a request does not come");
    }
    let third = served.post(COMPLETIONS, &greedy("hello", 2));
    third.refused(429, &["2 requests"]);
    assert!(third.head.contains("retry-after"), "{third:?}");
    drop((running, waiting));
    served.wait_until_idle();
    assert_eq!(served.completion(&greedy("hello", 8)), short());

    let served = Served::start(&model, &["--max-batch", "2"]);
    let unread = served.begin(COMPLETIONS, &endless);
    assert_eq!(served.completion(&greedy("hello", 8)), short());
    assert_eq!(served.requests(), 1);
    drop(unread);
    served.wait_until_idle();
}

#[test]
fn a_request_that_takes_too_long_is_ended() {
    let place = Place::new();
    let served = Served::start(
        &endless_model(&place),
        &["--timeout", "1", "--max-batch", "1"],
    );
    let endless = greedy("hello", 2_000_000_000);
    let waiting = served.begin(COMPLETIONS, &endless);
    served
        .post(COMPLETIONS, &endless)
        .refused(504, &["--timeout"]);
    read(waiting).refused(504, &["--timeout"]);
    let streamed = served.post(COMPLETIONS, &with(endless, json!({ "stream": true })));
    let last = streamed.body.trim_end().rsplit_once("data: ").unwrap().1;
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["code"], "timeout", "{last}");
    served.wait_until_idle();
}

#[cfg(unix)]
#[test]
fn a_signal_lets_requests_end_and_takes_no_more() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    for signal in ["-TERM", "-INT"] {
        let mut served = Served::start(&model, &[]);
        let idle = served.connect();
        let long = with(greedy("hello", 480), json!({ "stream": true }));
        let mut running = served.begin(COMPLETIONS, &long);
        let mut first = [0; 16];
        running.read_exact(&mut first).unwrap();
        crate::interrupt::send(signal, &served.child);
        let started = Instant::now();
        while TcpStream::connect(&served.address).is_ok() {
            assert!(started.elapsed() < PATIENCE, "it still takes connections");
            thread::sleep(Duration::from_millis(10));
        }
        let mut rest = String::new();
        running.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: [DONE]"), "{rest}");
        let status = served.child.wait().unwrap();
        assert_eq!(status.code(), Some(0));
        let mut told = String::new();
        let mut stderr = served.child.stderr.take().unwrap();
        stderr.read_to_string(&mut told).unwrap();
        assert_eq!(
            told.lines().filter(|line| !line.is_empty()).count(),
            1,
            "{told}"
        );
        drop(idle);
    }
}

#[test]
fn models_that_cannot_be_served_are_refused() {
    let place = Place::new();
    let model = place.model("tiny_llama");
    let peft = fixture("peft_adapter");
    let adapter = |name: &str| format!("--adapter={name}={}", peft.display());
    finetune!("serve", "--model", &model, adapter("tiny_llama"))
        .refused(&["tiny_llama", "already"]);
    finetune!("serve", "--model", &model, adapter("a"), adapter("a")).refused(&["--adapter a"]);
    finetune!("serve", "--model", &model, "--adapter", "run").refused(&["--adapter", "notes=run"]);
    finetune!(
        "serve",
        "--model",
        &model,
        "--port",
        "0",
        "--adapter",
        "a=/nowhere"
    )
    .refused(&["/nowhere"]);
    finetune!("serve", "--model", &model, "--max-batch", "0").refused(&["--max-batch"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    finetune!("serve", "--model", &model, "--port", &port).refused(&[&port]);
}
