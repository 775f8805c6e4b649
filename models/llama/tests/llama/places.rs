//! What a path can stand for, and what is said of everything else that lies in a model's place.

use std::fs;
use std::path::{Path, PathBuf};

use burn_qlora_llama::{Checkpoint, DecoderError};
use qlora_test_support::fixture;
use tempfile::TempDir;

use crate::tensor_table::{Model, Tensors, write_tensors};

fn place() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Makes a copy of a recorded model under `name`.
fn model(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir_all(&path).expect("makes a directory");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("tiny_llama").join(file), path.join(file)).expect("copies");
    }
    path
}

fn opened(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn norm(checkpoint: &Checkpoint) -> Vec<f32> {
    checkpoint
        .read_f32("model.norm.weight", &[64])
        .expect("reads")
}

#[track_caller]
fn assert_refused(path: &Path, parts: &[&str]) -> DecoderError {
    let error = Checkpoint::open(path)
        .and_then(|checkpoint| checkpoint.tokenizer().map(drop))
        .expect_err("it is refused");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    error
}

#[test]
fn a_file_of_a_directory_stands_for_it() {
    let place = place();
    let model = model(place.path(), "model");
    for file in ["config.json", "model.safetensors"] {
        assert_eq!(opened(&model.join(file)).path(), model);
    }
    let other = model.join("consolidated.safetensors");
    fs::copy(model.join("model.safetensors"), &other).expect("copies");
    assert_refused(&other, &["safetensors file", "directory"]);
    let text = model.join("README.md");
    fs::write(&text, "# A model").expect("writes");
    assert_refused(&text, &["README.md", "directory", ".gguf"]);
}

#[test]
fn a_folder_of_the_hubs_cache_stands_for_its_snapshot() {
    let place = place();
    let top = place.path().join("models--someone--tiny");
    let snapshots = top.join("snapshots");
    model(&snapshots, "0aa1");
    fs::create_dir_all(top.join("blobs")).expect("makes a directory");
    let first = snapshots.join("0aa1");
    assert_eq!(opened(&top).path(), first);
    let second = model(&snapshots, "b002");
    assert_refused(&top, &["2 snapshots", "0aa1"]);
    fs::create_dir_all(top.join("refs")).expect("makes a directory");
    fs::write(top.join("refs").join("main"), "b002\n").expect("writes");
    for path in [&top, &snapshots] {
        assert_eq!(opened(path).path(), second);
    }
    assert_refused(place.path(), &["config.json", "models--someone--tiny"]);
    fs::remove_dir_all(&snapshots).expect("removes");
    fs::create_dir(&snapshots).expect("makes a directory");
    assert_refused(&top, &["without a snapshot"]);
}

#[test]
fn shards_without_an_index_are_read_if_all_are_there() {
    let place = place();
    let whole = opened(&model(place.path(), "whole"));
    let path = place.path().join("shards");
    fs::create_dir(&path).expect("makes a directory");
    fs::copy(
        fixture("tiny_llama").join("config.json"),
        path.join("config.json"),
    )
    .expect("copies");
    let mut shards = [Tensors::new(), Tensors::new(), Tensors::new()];
    for (number, (name, tensor)) in Model::of("tiny_llama").tensors.into_iter().enumerate() {
        shards[number % 3].insert(name, tensor);
    }
    for (number, shard) in (1..).zip(&shards) {
        let name = format!("model-{number:05}-of-00003.safetensors");
        write_tensors(&path.join(name), shard);
    }
    assert_eq!(norm(&opened(&path)), norm(&whole));
    let second = path.join("model-00002-of-00003.safetensors");
    assert_eq!(opened(&second).path(), path);
    fs::remove_file(&second).expect("removes");
    assert_refused(&path, &["model-00002-of-00003", "2 of 3 shards"]);
    // A name that claims any number takes no memory for it.
    let claims = path.join("model-00001-of-99999999999.safetensors");
    fs::rename(path.join("model-00001-of-00003.safetensors"), claims).expect("renames");
    assert_refused(&path, &["different models"]);
    fs::remove_file(path.join("model-00003-of-00003.safetensors")).expect("removes");
    assert_refused(&path, &["of-99999999999", "1 of 99999999999"]);
}

#[test]
fn what_lies_in_a_models_place_is_named_with_what_to_do() {
    for (file, words) in [
        ("pytorch_model.bin", "save_pretrained"),
        ("pytorch_model-00001-of-00002.bin", "save_pretrained"),
        ("model.pth", "save_pretrained"),
        ("consolidated.00.pth", "convert_llama_weights_to_hf"),
        ("consolidated.safetensors", "convert_mistral_weights_to_hf"),
        ("zero_to_fp32.py", "DeepSpeed"),
        ("__0_0.distcp", "FSDP"),
        ("weights.npz", "MLX"),
        ("weights.00.safetensors", "MLX"),
        ("model.fp16.safetensors", "call it model.safetensors"),
        ("model.onnx", "ONNX"),
        ("openvino_model.xml", "OpenVINO"),
        ("tf_model.h5", "from_tf"),
        ("flax_model.msgpack", "from_flax"),
    ] {
        let place = place();
        fs::write(place.path().join("training_args.bin"), "x").expect("writes");
        fs::write(place.path().join(file), "not looked at").expect("writes");
        assert_refused(place.path(), &["config.json", "not found", file, words]);
        fs::copy(
            fixture("tiny_llama").join("config.json"),
            place.path().join("config.json"),
        )
        .expect("copies");
        assert_refused(
            place.path(),
            &["model.safetensors", "not found", file, words],
        );
    }
    let place = place();
    assert_refused(place.path(), &["config.json", "not found"]);
    let bare = model(place.path(), "bare");
    fs::remove_file(bare.join("config.json")).expect("removes");
    assert_refused(&bare, &["config.json", "not found", "fetch it"]);
    model(place.path(), "checkpoint-500");
    assert_refused(place.path(), &["config.json", "checkpoint-500"]);
    model(place.path(), "checkpoint-1000");
    assert_refused(place.path(), &["one of the 2 folders", "checkpoint-1000"]);
}

#[test]
fn an_adapter_is_told_with_the_model_it_belongs_to() {
    let place = place();
    let path = place.path().join("adapter");
    fs::create_dir(&path).expect("makes a directory");
    let config = path.join("adapter_config.json");
    for (text, base) in [
        (
            r#"{"base_model_name_or_path":"someone/tiny","r":8}"#,
            "someone/tiny",
        ),
        (
            r#"{"model":"mlx/tiny","fine_tune_type":"lora"}"#,
            "mlx/tiny",
        ),
        (
            r#"{"base_model_name_or_path":null}"#,
            "that it was trained on",
        ),
        ("{", "that it was trained on"),
    ] {
        fs::write(&config, text).expect("writes");
        for path in [&path, &config] {
            let error = assert_refused(path, &["adapter", "not a model", base]);
            assert!(matches!(error, DecoderError::Adapter { .. }), "{error}");
        }
    }
    // The configuration of its model beside it makes no model of it.
    fs::copy(
        fixture("tiny_llama").join("config.json"),
        path.join("config.json"),
    )
    .expect("copies");
    assert_refused(&path, &["not a model"]);
    model(place.path(), "adapter");
    assert_eq!(opened(&path).path(), path);
}

#[test]
fn pointers_to_files_are_told_from_damage() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n";
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        let place = place();
        let model = model(place.path(), "model");
        let tokenizer = fixture("families/qwen3").join("tokenizer.json");
        fs::copy(tokenizer, model.join("tokenizer.json")).expect("copies");
        assert!(opened(&model).tokenizer().is_ok());
        for (text, words) in [
            (pointer, "git lfs pull"),
            ("<!DOCTYPE html><html>Sign in</html>", "web page"),
            ("", ""),
        ] {
            fs::write(model.join(file), text).expect("writes");
            assert_refused(&model, &[file, words]);
        }
        fs::remove_file(model.join(file)).expect("removes");
        fs::create_dir(model.join(file)).expect("makes a directory");
        assert_refused(&model, &[file, "not a regular file"]);
    }
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_not_missing_files() {
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let place = place();
        let model = model(place.path(), "model");
        let path = model.join(file);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink("../../blobs/0aa1", &path).expect("links");
        assert_refused(&model, &[file, "a link to ../../blobs/0aa1"]);
        fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink(file, &path).expect("links");
        let error = assert_refused(&model, &[file]);
        assert!(matches!(error, DecoderError::Io { .. }), "{error}");
    }
    let place = place();
    let path = place.path().join("loop");
    std::os::unix::fs::symlink("loop", &path).expect("links");
    assert_refused(&path, &["loop"]);
    // A snapshot that is the folder itself.
    let top = place.path().join("top");
    for folder in ["snapshots", "refs"] {
        fs::create_dir_all(top.join(folder)).expect("makes a directory");
    }
    std::os::unix::fs::symlink(&top, top.join("snapshots").join("main")).expect("links");
    assert_refused(&top, &["config.json"]);
}

#[test]
fn a_missing_tokenizer_is_told_with_the_form_that_is_there() {
    let place = place();
    let model = model(place.path(), "model");
    assert_refused(&model, &["tokenizer.json", "not found", "fetch it"]);
    for file in ["vocab.json", "tokenizer.model", "tekken.json"] {
        fs::write(model.join(file), "not looked at").expect("writes");
        assert_refused(&model, &["tokenizer.json", file, "AutoTokenizer"]);
        fs::remove_file(model.join(file)).expect("removes");
    }
}

#[test]
fn a_byte_order_mark_before_a_configuration_is_no_part_of_it() {
    let place = place();
    let model = model(place.path(), "model");
    let path = model.join("config.json");
    let text = fs::read_to_string(&path).expect("reads");
    fs::write(&path, format!("\u{feff}{text}")).expect("writes");
    opened(&model);
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&path, wide).expect("writes");
    assert_refused(&model, &["config.json"]);
}

#[cfg(feature = "gguf")]
mod gguf {
    use super::{assert_refused, model, norm, opened, place};
    use std::fs;

    use burn_qlora_llama::Checkpoint;

    use crate::gguf_file::tiny_llama;

    #[test]
    fn a_folder_stands_for_the_only_gguf_file_in_it() {
        let place = place();
        let file = place.path().join("tiny-Q8_0.gguf");
        tiny_llama("tiny_llama", false).write(&file);
        fs::write(place.path().join("mmproj-tiny.gguf"), "GGUF").expect("writes");
        fs::write(place.path().join("README.md"), "# A model").expect("writes");
        assert_eq!(opened(place.path()).path(), file);
        // Repositories of GGUF files have the configuration of the model they were made of.
        fs::write(place.path().join("config.json"), "{}").expect("writes");
        assert_eq!(opened(place.path()).path(), file);
        fs::copy(&file, place.path().join("tiny-F16.gguf")).expect("copies");
        assert_refused(
            place.path(),
            &["several GGUF files", "tiny-F16.gguf", "tiny-Q8_0.gguf"],
        );
        let both = model(place.path(), "both");
        fs::copy(&file, both.join("tiny.gguf")).expect("copies");
        assert_eq!(opened(&both).path(), both);
    }

    #[test]
    fn a_split_file_is_read_whole_by_whichever_part_is_named() {
        let place = place();
        let whole = tiny_llama("tiny_llama", false);
        let single = place.path().join("single.gguf");
        whole.write(&single);
        let single = opened(&single);
        let folder = place.path().join("split");
        fs::create_dir(&folder).expect("makes a directory");
        let name = |number: usize| folder.join(format!("tiny-{number:05}-of-00003.gguf"));
        let tensors = whole.tensor_names().len();
        // The first part can be without tensors.
        let parts = whole.split(&[0, 5, tensors - 5]);
        for (number, part) in (1..).zip(&parts) {
            part.write(&name(number));
        }
        let all = |checkpoint: &Checkpoint| {
            let head = checkpoint.read_f32("lm_head.weight", &[512, 64]);
            (norm(checkpoint), head.expect("reads"))
        };
        for path in [name(1), name(2), name(3), folder.clone()] {
            let checkpoint = opened(&path);
            assert_eq!(checkpoint.config(), single.config());
            assert_eq!(all(&checkpoint), all(&single));
        }

        fs::rename(name(2), folder.join("second.gguf")).expect("renames");
        assert_refused(
            &name(1),
            &["tiny-00002-of-00003.gguf", "not found", "all parts"],
        );
        let words = [
            "second.gguf",
            "part 2 of 3",
            "NAME-00002-of-00003.gguf",
            "--merge",
        ];
        assert_refused(&folder.join("second.gguf"), &words);
        fs::copy(name(3), name(2)).expect("copies");
        assert_refused(&name(1), &["tiny-00002-of-00003.gguf", "not part 2 of 3"]);
        fs::write(name(2), "version https://git-lfs.github.com/spec/v1\n").expect("writes");
        assert_refused(&name(3), &["tiny-00002-of-00003.gguf", "git lfs pull"]);
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let place = place();
        let whole = tiny_llama("tiny_llama", false);
        let tensors = whole.tensor_names().len();
        let name = |number: usize| place.path().join(format!("a-{number:05}-of-00002.gguf"));
        let mut parts = whole.split(&[tensors - 4, 4]);
        parts[0].write(&name(1));
        let cut = parts[1].without_tensor(&parts[1].tensor_names()[0]);
        cut.write(&name(2));
        assert_refused(&name(1), &["split.tensors.count", "fetch all parts"]);
        parts[1].floats("token_embd.weight", &[1], &[0.0]);
        parts[1].write(&name(2));
        assert_refused(&name(2), &["token_embd.weight", "in another part"]);
        parts[1].number("split.no", 7);
        parts[1].write(&name(2));
        assert_refused(&name(1), &["a-00002-of-00002.gguf", "split.no"]);
    }
}
