//! Rows of preferences, and training on them.

use crate::support::{Toy, config, lora};
use burn::tensor::Device;
use burn_finetune::{
    ChatTemplate, Columns, Dataset, DatasetBuilder, Dpo, EvalResult, Event, ExampleKind, Kto,
    Learn, Objective, Orpo, RecordedRun, ReferenceConfig, ReferenceFile, References, Row,
    RowEncoder, RunDir, RunOptions, RunSettings, Sources, TrainConfig, Trainer, Verdicts,
    evaluate_preferences,
};
use qlora_test_support::{fixture, json};
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tokenizers::Tokenizer;

/// What rows of preferences are made with.
struct Model {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    max_len: usize,
    truncate: bool,
}

impl Model {
    /// The tokenizer and the template that TRL's rows were recorded with.
    fn recorded() -> Self {
        let shapes = json("preferences/shapes.json");
        let source = shapes["template"].as_str().unwrap();
        Self {
            tokenizer: Tokenizer::from_file(fixture("chat_masks/tokenizer.json")).unwrap(),
            template: ChatTemplate::new(source, BTreeMap::new()).unwrap(),
            max_len: 128,
            truncate: false,
        }
    }

    fn encoder(&self) -> RowEncoder<'_> {
        RowEncoder {
            tokenizer: &self.tokenizer,
            template: Some(&self.template),
            eos: self.tokenizer.token_to_id("</s>"),
            vocab_size: None,
            learn: Learn::AllAnswers,
            max_len: self.max_len,
            truncate: self.truncate,
        }
    }

    fn read(&self, kind: ExampleKind, text: &str) -> Result<Dataset, String> {
        self.read_in(kind, text, usize::MAX)
    }

    fn read_in(&self, kind: ExampleKind, text: &str, memory: usize) -> Result<Dataset, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.jsonl");
        fs::write(&file, text).unwrap();
        let sources = Sources::file(&file).with_columns(Columns::of(kind, []).unwrap());
        let mut builder = DatasetBuilder::in_dir(dir.path()).with_memory(memory);
        let read = builder.read(&sources, &self.encoder());
        read.and_then(|()| builder.finish()).map_err(|error| {
            error
                .to_string()
                .replace(&format!("{}/", dir.path().display()), "")
        })
    }
}

/// The ids of each sequence of a row, and where its answer begins.
fn sequences(row: &Row) -> Vec<(Vec<u32>, usize)> {
    let sequences = row.sequences().map(|places| {
        let learn = &row.learn[places.clone()];
        let start = learn.iter().position(|learn| *learn).unwrap();
        assert!(learn[start..].iter().all(|learn| *learn));
        (row.ids[places].to_vec(), start)
    });
    sequences.collect()
}

/// What TRL made of a row.
fn recorded(row: &Value) -> Vec<(Vec<u32>, usize)> {
    let ids = |key: &str| -> Option<Vec<u32>> { serde_json::from_value(row[key].clone()).ok() };
    let prompt = ids("prompt").unwrap();
    let answers = ["chosen", "rejected", "completion"].into_iter();
    let whole = answers.filter_map(|answer| Some([prompt.clone(), ids(answer)?].concat()));
    whole.map(|ids| (ids, prompt.len())).collect()
}

#[test]
fn rows_of_every_published_shape_have_the_tokens_of_trl() {
    let model = Model::recorded();
    let shapes = json("preferences/shapes.json");
    for (name, kind, count) in [
        ("pairs", ExampleKind::Pairs, 6),
        ("labelled", ExampleKind::Labelled, 2),
    ] {
        let rows = shapes[name].as_array().unwrap();
        assert_eq!(rows.len(), count);
        for row in rows {
            let data = model.read(kind, &row["row"].to_string()).unwrap();
            assert_eq!(sequences(&data.row(0).unwrap()), recorded(row), "{row}");
            assert_eq!(data.kind().unwrap(), kind);
        }
    }
}

#[test]
fn whole_files_have_the_tokens_of_trl() {
    let model = Model::recorded();
    let tokens = json("preferences/tokens.json");
    for (name, kind) in [
        ("pairs", ExampleKind::Pairs),
        ("labelled", ExampleKind::Labelled),
    ] {
        let text = fs::read_to_string(fixture(format!("preferences/{name}.jsonl"))).unwrap();
        let data = model.read(kind, &text).unwrap();
        let rows: Vec<Row> = data.rows().map(Result::unwrap).collect();
        let expected: Vec<_> = tokens[name]
            .as_array()
            .unwrap()
            .iter()
            .map(recorded)
            .collect();
        assert_eq!(rows.iter().map(sequences).collect::<Vec<_>>(), expected);
        assert_eq!((data.len(), data.examples()), (40, 40));
        // Rows in a file are those in memory.
        let in_file = model.read_in(kind, &text, 0).unwrap();
        assert!(in_file.is_in_file());
        assert!(in_file.rows().map(Result::unwrap).eq(rows.iter().cloned()));
        let print = data.fingerprint().unwrap();
        assert_eq!(in_file.fingerprint().unwrap(), print);
        let packed = data.packed(128).unwrap();
        assert!(packed.len() < 40 && packed.examples() == 40);
        let split = data.split(0.25, 1).unwrap();
        assert_eq!(
            (split.train.examples(), split.held_out.examples()),
            (30, 10)
        );
    }
    let text = fs::read_to_string(fixture("preferences/labelled.jsonl")).unwrap();
    let data = model.read(ExampleKind::Labelled, &text).unwrap();
    let told = data.counts();
    assert_eq!(told.desirable + told.undesirable, 40);
    assert_eq!(told.desirable, text.matches("true").count());
    // What is said of a row is part of it.
    let other = text.replacen("true", "false", 1);
    let other = model.read(ExampleKind::Labelled, &other).unwrap();
    assert_ne!(other.fingerprint().unwrap(), data.fingerprint().unwrap());
}

#[test]
fn both_answers_of_a_pair_can_be_labelled() {
    let model = Model::recorded();
    let row = r#"{"prompt": "p", "chosen": " yes", "rejected": " no"}"#;
    let data = model.read(ExampleKind::Labelled, row).unwrap();
    let labels: Vec<_> = data
        .rows()
        .map(|row| row.unwrap().verdicts().clone())
        .collect();
    assert_eq!(
        labels,
        [Verdicts::Labels(vec![true]), Verdicts::Labels(vec![false])]
    );
    let split = data.split(0.5, 1);
    assert!(split.is_err(), "the two come from one example");
}

#[test]
fn a_question_beside_whole_conversations_is_no_prompt_of_its_own() {
    let model = Model::recorded();
    let row = |prompt: &str| {
        format!(
            r#"{{"prompt": "{prompt}", "chosen": [{{"role": "user", "content": "Hi "}}, {{"role": "assistant", "content": "Ho"}}],
            "rejected": [{{"role": "user", "content": "Hi "}}, {{"role": "assistant", "content": "No"}}]}}"#
        )
    };
    let data = model
        .read(ExampleKind::Pairs, &row("Hi").replace('\n', ""))
        .unwrap();
    let [chosen, rejected] = &sequences(&data.row(0).unwrap())[..] else {
        panic!("a pair has two");
    };
    assert_eq!(chosen.1, rejected.1);
    assert_eq!(chosen.0[..chosen.1], rejected.0[..chosen.1]);
    let error = model.read(ExampleKind::Pairs, &row("Who?").replace('\n', ""));
    let error = error.unwrap_err();
    assert!(
        error.contains("\"prompt\" is a text, and none of the messages"),
        "{error}"
    );
}

#[test]
fn answers_may_follow_a_conversation() {
    let model = Model::recorded();
    let pair =
        r#""chosen": {"from": "gpt", "value": "Ho"}, "rejected": {"from": "gpt", "value": "No"}"#;
    let row = format!(
        r#"{{"system": "Be brief.", "conversations": [{{"from": "human", "value": "Hi"}}], {pair}}}"#
    );
    let data = model.read(ExampleKind::Pairs, &row).unwrap();
    let texts = sequences(&data.row(0).unwrap())
        .into_iter()
        .map(|(ids, start)| {
            let text = |ids: &[u32]| model.tokenizer.decode(ids, false).unwrap();
            (text(&ids[..start]), text(&ids[start..]))
        });
    let prompt = "<|system|>Be brief.</s><|user|>Hi</s><|assistant|>";
    let expected = ["Ho</s>", "No</s>"].map(|answer| (prompt.to_owned(), answer.to_owned()));
    assert!(texts.eq(expected));
    let error = model
        .read(ExampleKind::Pairs, &format!("{{{pair}}}"))
        .unwrap_err();
    assert!(
        error.contains("begin with no message that they share"),
        "{error}"
    );
}

#[test]
fn other_rows_are_refused_by_what_learns_them() {
    let model = Model::recorded();
    let (pairs, labelled, texts) = (
        ExampleKind::Pairs,
        ExampleKind::Labelled,
        ExampleKind::Texts,
    );
    for (kind, row, expected) in [
        (
            pairs,
            r#"{"text": "a"}"#,
            "--objective sft learns such rows (found: text)",
        ),
        (
            pairs,
            r#"{"prompt": "a", "completion": "b"}"#,
            "--objective sft learns such rows",
        ),
        (
            pairs,
            r#"{"prompt": "a", "completion": "b", "label": true}"#,
            "--objective kto learns such rows",
        ),
        (
            pairs,
            r#"{"chosen": "a"}"#,
            "need \"chosen\" and \"rejected\", with \"prompt\"",
        ),
        (
            labelled,
            r#"{"messages": []}"#,
            "--objective sft learns such rows",
        ),
        (
            labelled,
            r#"{"prompt": "a"}"#,
            "needs \"prompt\", \"completion\" and \"label\"",
        ),
        (
            labelled,
            r#"{"prompt": "a", "completion": "b", "label": 2}"#,
            "\"label\" is 2, but it must be true or false",
        ),
        (
            pairs,
            r#"{"prompt": "a", "chosen": [{"role": "assistant", "content": "b"}], "rejected": "c"}"#,
            "\"chosen\" is a list of messages and \"rejected\" is a text",
        ),
        (
            pairs,
            r#"{"prompt": "a", "chosen": "b", "rejected": 3}"#,
            "\"rejected\" is a number, not a string",
        ),
        (
            pairs,
            r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b", "weight": 0}],
              "rejected": [{"role": "assistant", "content": "c"}]}"#,
            "\"weight\", which is of --objective sft",
        ),
        (
            texts,
            r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#,
            "train on those with --objective dpo, orpo or kto",
        ),
    ] {
        let error = model.read(kind, &row.replace('\n', "")).unwrap_err();
        assert!(
            error.starts_with("rows.jsonl:1: ") && error.contains(expected),
            "{row}: {error}"
        );
    }
    let named = Columns::of(pairs, [("text".to_owned(), "a".to_owned())]);
    let error = named.unwrap_err().to_string();
    assert!(error.contains("system, chosen, rejected, tools"), "{error}");
}

/// As TRL's `keep_start`: each answer is cut at its end, and a pair whose prompt fills the row is left out.
#[test]
fn long_pairs_are_refused_or_cut() {
    let mut model = Model::recorded();
    model.max_len = 8;
    let long = r#"{"prompt": "abc", "chosen": " chosen", "rejected": "no"}"#;
    let prompt = r#"{"prompt": "abcdefgh", "chosen": "1", "rejected": "2"}"#;
    let error = model.read(ExampleKind::Pairs, long).unwrap_err();
    assert!(
        error.contains("longer than 8 tokens") && error.contains("the longest has 11"),
        "{error}"
    );
    model.truncate = true;
    let data = model
        .read(ExampleKind::Pairs, &format!("{long}\n{prompt}\n"))
        .unwrap();
    let found = sequences(&data.row(0).unwrap());
    assert_eq!(
        found.iter().map(|(ids, _)| ids.len()).collect::<Vec<_>>(),
        [8, 6]
    );
    let counts = data.counts();
    assert_eq!((counts.rows, counts.cut, counts.cut_tokens), (1, 1, 3));
    let dropped = counts.dropped.as_ref().unwrap();
    assert_eq!((dropped.count, dropped.first.ends_with(":2")), (1, true));
    assert_eq!((data.longest_sequence(), data.longest()), (8, 14));
    let same = r#"{"prompt": "a", "chosen": "b", "rejected": "b"}"#;
    let data = model.read(ExampleKind::Pairs, same).unwrap();
    let told: Vec<String> = data
        .counts()
        .warnings
        .iter()
        .map(|told| told.line())
        .collect();
    assert!(told[0].contains("are the same"), "{told:?}");
}

/// An answer is what follows from the last token of its prompt by the rule of `support::rows`, or by another.
pub fn rows(kind: ExampleKind) -> Dataset {
    let answer = |row: u32, factor: u32| {
        let mut ids = vec![row % 7, row * 5 % 7];
        for _ in 0..2 + row % 2 {
            ids.push((ids[ids.len() - 1] * factor + 1) % 7);
        }
        let learn = (0..ids.len()).map(|place| place > 1).collect();
        Row::new(ids, learn)
    };
    let row = |row: u32| match kind {
        ExampleKind::Pairs => Row::pair(answer(row, 3), &answer(row, 2)),
        _ => answer(row, 3 - row % 2).labelled(row.is_multiple_of(2)),
    };
    Dataset::from_rows((0..12).map(row).collect())
}

pub fn objectives() -> [Objective; 3] {
    [
        Objective::Dpo(Dpo::default()),
        Objective::Orpo(Orpo { beta: 1.0 }),
        Objective::Kto(Kto::default()),
    ]
}

pub fn config_of(objective: Objective, steps: usize) -> TrainConfig {
    TrainConfig {
        objective,
        ..config(steps)
    }
}

fn toy(objective: Objective, steps: usize, device: &Device) -> Trainer<Toy> {
    Trainer::new(Toy::new(device, 0.0), config_of(objective, steps)).unwrap()
}

pub fn references(trainer: &Trainer<Toy>, data: &Dataset) -> Option<References> {
    let config = ReferenceConfig::of(trainer.config(), 8)?;
    let dir = std::env::temp_dir();
    References::compute(trainer.model(), data, config, &dir, &mut |_, _| true).unwrap()
}

pub fn every_objective_learns_what_is_preferred(device: &Device) {
    for objective in objectives() {
        let data = rows(objective.examples());
        let mut trainer = toy(objective, 30, device);
        if let Some(config) = ReferenceConfig::of(trainer.config(), 8) {
            let dir = std::env::temp_dir();
            let mut asked = Vec::new();
            let stopped =
                References::compute(trainer.model(), &data, config, &dir, &mut |done, all| {
                    asked.push((done, all));
                    asked.len() < 3
                });
            assert!(stopped.unwrap().is_none());
            assert_eq!(asked, [(0, 12), (3, 12), (6, 12)]);
        }
        let references = references(&trainer, &data);
        let options = RunOptions {
            eval: Some(&data),
            references: references.as_ref(),
            eval_references: references.as_ref(),
            ..RunOptions::default()
        };
        let first = evaluate_preferences(trainer.model(), &data, references.as_ref(), objective, 5)
            .unwrap();
        let mut last = None;
        trainer
            .run(&data, &options, &mut |event| {
                if let Event::Evaluated(evaluation) = event
                    && let EvalResult::Preferences(report) = evaluation.result
                {
                    last = Some(report);
                }
            })
            .unwrap();
        let last = last.unwrap();
        assert!(last.loss < first.loss, "{objective:?}: {first:?} {last:?}");
        assert!(last.preferences.rewards_margins.unwrap() > 0.0, "{last:?}");
        assert_eq!(first.examples, 12);
        // Rows of something else, and no reference where one is needed.
        let texts = crate::support::rows(4);
        let error = trainer.run(&texts, &options, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("objective"), "{error}");
        if objective.needs_reference() {
            let error = trainer
                .run(&data, &RunOptions::default(), &mut |_| {})
                .unwrap_err();
            assert!(error.to_string().contains("without a reference"), "{error}");
        }
    }
    let one = TrainConfig {
        batch_size: 1,
        grad_accum: 1,
        ..config_of(Objective::Kto(Kto::default()), 1)
    };
    let error = one.validate().unwrap_err().to_string();
    assert!(error.contains("at least 2 with KTO"), "{error}");
}

/// An asking that is stopped goes on with the next batch, from a file that another process reads, and rows that are asked about
/// alone get the same bits.
pub fn a_reference_goes_on_where_it_was_stopped(device: &Device) {
    for objective in objectives() {
        let data = rows(objective.examples());
        let trainer = toy(objective, 4, device);
        let Some(config) = ReferenceConfig::of(trainer.config(), 8) else {
            continue;
        };
        let expected = references(&trainer, &data).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs");
        let file = || ReferenceFile::new(&path, &data, "base", config).unwrap();
        let part = dir.path().join("refs.part");
        for (stop, seen) in [(2, vec![0, 3]), (1, vec![3]), (9, vec![3, 6, 9])] {
            let mut asked = Vec::new();
            let found = file().ask(trainer.model(), &data, &mut |done, all| {
                assert_eq!(all, 12);
                asked.push(done);
                asked.len() < stop
            });
            assert_eq!(asked, seen, "{objective:?}");
            assert_eq!(found.unwrap().is_some(), stop == 9);
            assert_eq!(part.exists(), stop != 9);
        }
        let losses = |references: &References, trainer: &mut Trainer<Toy>| {
            let mut losses = Vec::new();
            let options = RunOptions {
                references: Some(references),
                ..RunOptions::default()
            };
            let mut on_event = |event: Event<'_>| {
                if let Event::Step(report) = event {
                    losses.push(report.loss.to_bits());
                }
            };
            trainer.run(&data, &options, &mut on_event).unwrap();
            losses
        };
        let mut order = trainer.config().order(&data).unwrap();
        let places: Vec<usize> = (0..4).flat_map(|step| order.rows_of(step)).collect();
        let at_places =
            References::compute_at(trainer.model(), &data, config, dir.path(), &places).unwrap();
        let kept = file().open().unwrap();
        let [expected, kept, at_places] = [expected, kept, at_places]
            .map(|references| losses(&references, &mut toy(objective, 4, device)));
        assert_eq!(kept, expected, "{objective:?}");
        assert_eq!(at_places, expected, "{objective:?}");
    }
}

pub fn preferences_stopped_and_resumed_are_not_stopped(device: &Device) {
    const STEPS: usize = 5;
    for objective in objectives() {
        let data = rows(objective.examples());
        let settings = RunSettings::new(config_of(objective, STEPS), lora(0.0), "toy");
        let run = |path: &Path, stop: usize, resumes: bool| {
            let mut trainer = toy(objective, STEPS, device);
            let references = references(&trainer, &data);
            let run_dir = if resumes {
                let recorded = RecordedRun::open(path).unwrap();
                let run_dir = recorded.resume(&settings).unwrap();
                run_dir.restore(&mut trainer).unwrap();
                run_dir
            } else {
                RunDir::create(path, &settings).unwrap()
            };
            let asked = Cell::new(0);
            let interrupted = || {
                asked.set(asked.get() + 1);
                asked.get() > stop
            };
            let options = RunOptions {
                run_dir: Some(&run_dir),
                references: references.as_ref(),
                interrupted: Some(&interrupted),
                ..RunOptions::default()
            };
            trainer.run(&data, &options, &mut |_| {}).unwrap();
            trainer.model().factors()
        };
        let dir = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
        let expected = run(&whole, usize::MAX, false);
        let stopped = run(&parts, 1, false);
        assert_ne!(stopped, expected);
        assert_eq!(run(&parts, usize::MAX, true), expected, "{objective:?}");
        let other = RunSettings::new(config(STEPS), lora(0.0), "toy");
        let error = RecordedRun::open(&parts)
            .unwrap()
            .resume(&other)
            .unwrap_err();
        let name = objective.name();
        let expected = format!("objective = {{\"{name}\":{{\"beta\"");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}
