//! The tensors of a directory against its config.json: their prefix, those that are not the model's, and what they decide.

use std::collections::BTreeMap;
use std::path::Path;

use burn_qlora_llama::{Checkpoint, Decoder, DecoderError, LoadOptions};
use qlora_test_support::fixture;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixtures::devices;

pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A recorded model with another configuration and other tensors.
pub struct Model {
    pub config: Value,
    pub tensors: Tensors,
}

impl Model {
    pub fn of(name: &str) -> Self {
        let read = |file| std::fs::read(fixture(name).join(file)).expect("reads");
        let bytes = read("model.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let tensors = file.iter().map(|(name, tensor)| {
            let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
            (name.to_owned(), (dtype, shape, tensor.data().to_vec()))
        });
        Self {
            config: serde_json::from_slice(&read("config.json")).expect("JSON"),
            tensors: tensors.collect(),
        }
    }

    /// Adds a tensor of ones.
    pub fn add(&mut self, name: &str, shape: &[usize]) {
        let bytes = 1f32.to_le_bytes().repeat(shape.iter().product());
        self.tensors
            .insert(name.into(), (Dtype::F32, shape.to_vec(), bytes));
    }

    fn rename(&mut self, rename: impl Fn(String) -> String) {
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors
            .map(|(name, tensor)| (rename(name), tensor))
            .collect();
    }

    pub fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        write_tensors(&directory.path().join("model.safetensors"), &self.tensors);
        let config = self.config.to_string();
        std::fs::write(directory.path().join("config.json"), config).expect("writes");
        directory
    }

    /// Opens and loads it; returns what the user hears.
    fn open(&self) -> Result<Vec<String>, DecoderError> {
        let directory = self.write();
        let checkpoint = Checkpoint::open(directory.path())?;
        Decoder::load(&checkpoint, &LoadOptions::default(), &devices().remove(0))?;
        Ok(checkpoint.warnings().to_vec())
    }

    #[track_caller]
    fn assert_refused(&self, parts: &[&str]) {
        let error = self.open().expect_err("it is refused").to_string();
        assert!(!error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}

/// Writes a file of `tensors`.
pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor");
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).expect("serializes");
    std::fs::write(path, bytes).expect("writes");
}

#[test]
fn tensors_that_the_model_does_not_use_are_refused_by_name() {
    for name in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.pre_feedforward_layernorm.weight",
        "model.layers.9.mlp.up_proj.weight",
        "model.layers.0.mlp.experts.0.up_proj.weight",
        "model.embed_positions.weight",
        "lm_head.bias",
    ] {
        let mut model = Model::of("tiny_llama");
        model.add(name, &[64]);
        model.assert_refused(&["model.safetensors", name, "not part of the model"]);
        model.add("model.z.weight", &[1]);
        model.assert_refused(&["1 other"]);
    }
}

#[test]
fn tensors_beside_the_decoder_are_left_out_with_a_warning() {
    for name in ["score.weight", "v_head.summary.weight", "aa"] {
        let mut model = Model::of("tiny_llama");
        model.add(name, &[3]);
        let warnings = model.open().expect("opens");
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}");
        };
        assert!(warning.contains(&format!("`{name}`")), "{warning}");
        model.add("zz", &[3]);
        let warnings = model.open().expect("opens");
        assert!(warnings[0].contains("1 more"), "{warnings:?}");
    }
}

#[test]
fn values_of_64_bits_are_rounded() {
    const NORM: &str = "model.norm.weight";
    let mut model = Model::of("tiny_llama");
    let values = (0..64).map(|i| 1.0 + f64::from(i) * 1e-9);
    let bytes = values.clone().flat_map(f64::to_le_bytes).collect();
    model
        .tensors
        .insert(NORM.into(), (Dtype::F64, vec![64], bytes));
    assert_eq!(model.open().expect("loads"), Vec::<String>::new());
    let directory = model.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    let read = checkpoint.read_f32(NORM, &[64]).expect("reads");
    assert_eq!(read, values.map(|value| value as f32).collect::<Vec<_>>());
}

#[test]
fn names_of_other_programs_are_told() {
    for (from, to, words) in [
        ("model.", "base_model.model.model.", "merge_and_unload"),
        ("model.", "_orig_mod.model.", "torch.compile"),
        ("model.", "module.model.", "wrapper"),
        (
            "model.embed_tokens.weight",
            "tok_embeddings.weight",
            "Meta's",
        ),
        ("model.", "transformer.h.", "another kind of model"),
    ] {
        let mut model = Model::of("tiny_llama");
        model.rename(|name| match name.strip_prefix(from) {
            Some(rest) => format!("{to}{rest}"),
            None => name,
        });
        model.assert_refused(&["model.safetensors", "model.embed_tokens.weight", to, words]);
    }
    let mut unmerged = Model::of("tiny_llama");
    unmerged.add("model.layers.0.self_attn.q_proj.lora_A.weight", &[4, 64]);
    unmerged.assert_refused(&["lora_A", "merge_and_unload"]);
}

/// What the tensors of a layer become in each method, and the words that name it.
#[test]
fn other_quantizations_are_named_by_the_tensors() {
    const WEIGHT: &str = "model.layers.0.mlp.up_proj.weight";
    for (ends, words) in [
        (&[".qweight", ".qzeros", ".scales", ".g_idx"][..], "GPTQ"),
        (&[".qweight", ".qzeros", ".scales"], "GPTQ or AWQ"),
        (&[".q_weight", ".q_scale", ".q_invperm"], "EXL2"),
        (&[".trellis", ".suh", ".svh"], "EXL3"),
        (&[".weight", ".SCB"], "bitsandbytes in 8 bits"),
        (&[".weight", ".weight_scale_inv"], "FP8"),
        (&[".weight_packed", ".weight_scale"], "compressed-tensors"),
        (&[".weight", ".scales", ".biases"], "MLX"),
        (&[".weight", ".absmax"], "without its quant_state"),
        (&[".W_q", ".scale", ".zero"], "HQQ"),
    ] {
        let mut model = Model::of("tiny_llama");
        model.tensors.remove(WEIGHT);
        let layer = WEIGHT.strip_suffix(".weight").expect("a weight");
        for end in ends {
            model.add(&format!("{layer}{end}"), &[8]);
        }
        model.assert_refused(&["quantization method", words, "unquantized"]);
    }
}

#[test]
fn a_method_that_only_the_configuration_names_is_told_from_one_that_is_there() {
    let mut model = Model::of("tiny_llama");
    model.config["quantization_config"] = json!({"quant_method": "fp8"});
    model.assert_refused(&["config.json", "`fp8`", "no tensor", "take that key out"]);
    let (_, shape, bytes) = model.tensors["model.norm.weight"].clone();
    let bytes = bytes.into_iter().step_by(2).collect();
    let weight = (Dtype::F8_E4M3, shape, bytes);
    model.tensors.insert("model.norm.weight".into(), weight);
    let error = model.open().expect_err("it is refused").to_string();
    assert!(
        error.contains("`fp8`") && !error.contains("no tensor"),
        "{error}"
    );
}

#[test]
fn a_missing_head_is_named_with_the_key_that_would_explain_it() {
    let mut model = Model::of("tiny_llama");
    model.tensors.remove("lm_head.weight");
    model.assert_refused(&["lm_head.weight", "missing", "tie_word_embeddings"]);
}

#[test]
fn what_transformers_once_saved_beside_the_weights_passes() {
    let mut model = Model::of("tiny_llama");
    model.add("model.layers.0.self_attn.rotary_emb.inv_freq", &[8]);
    model.add("model.rotary_emb.inv_freq", &[8]);
    model.add("model.layers.0.self_attn.masked_bias", &[1]);
    assert_eq!(model.open().expect("opens"), Vec::<String>::new());
}

#[test]
fn names_with_other_prefixes_are_found() {
    let directory = Model::of("tiny_llama").write();
    let usual = Checkpoint::open(directory.path()).expect("opens");
    let norm = |checkpoint: &Checkpoint| {
        let norm = checkpoint.read_f32("model.norm.weight", &[64]);
        norm.expect("reads")
    };
    let mut bare = Model::of("tiny_llama");
    bare.rename(|name| name.strip_prefix("model.").unwrap_or(&name).to_owned());
    bare.config["architectures"] = json!(["LlamaModel"]);
    let directory = bare.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert_eq!(checkpoint.config(), usual.config());
    assert_eq!(norm(&checkpoint), norm(&usual));

    for (body, head) in [
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
    ] {
        let mut model = Model::of("tiny_llama");
        model.rename(|name| match name.strip_prefix("model.") {
            Some(rest) => format!("{body}{rest}"),
            None => head.to_owned(),
        });
        let tower = body.strip_suffix("language_model.").unwrap_or_default();
        model.add(&format!("{tower}vision_tower.embeddings.weight"), &[64]);
        model.add(&format!("{tower}multi_modal_projector.norm.weight"), &[64]);
        let mut text = model.config.clone();
        text["model_type"] = json!("mistral");
        text["sliding_window"] = Value::Null;
        for key in ["architectures", "attention_bias", "mlp_bias"] {
            text.as_object_mut().expect("an object").remove(key);
        }
        model.config = json!({
            "architectures": ["Mistral3ForConditionalGeneration"],
            "model_type": "mistral3",
            "text_config": text,
            "vision_config": {},
        });
        let warnings = model.open().expect("opens");
        assert!(
            warnings.len() == 1 && warnings[0].contains("images"),
            "{warnings:?}"
        );
        let directory = model.write();
        let checkpoint = Checkpoint::open(directory.path()).expect("opens");
        assert_eq!(norm(&checkpoint), norm(&usual));
    }
}

#[test]
fn a_copy_of_a_tied_head_passes_and_another_head_is_used() {
    const HEAD: &str = "lm_head.weight";
    let mut model = Model::of("tiny_llama_tied");
    let embedding = model.tensors["model.embed_tokens.weight"].clone();
    model.tensors.insert(HEAD.into(), embedding.clone());
    let directory = model.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert!(checkpoint.config().tie_word_embeddings && checkpoint.warnings().is_empty());

    // The same numbers in another type.
    let (Dtype::BF16, shape, bytes) = embedding else {
        panic!("recorded in bf16");
    };
    let pairs = bytes.chunks_exact(2);
    let widened: Vec<u8> = pairs.flat_map(|pair| [0, 0, pair[0], pair[1]]).collect();
    let wide = (Dtype::F32, shape.clone(), widened);
    model.tensors.insert(HEAD.into(), wide.clone());
    let directory = model.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert!(checkpoint.config().tie_word_embeddings && checkpoint.warnings().is_empty());

    let mut other = wide;
    other.2[2] ^= 1;
    model.tensors.insert(HEAD.into(), other);
    let directory = model.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert!(!checkpoint.config().tie_word_embeddings);
    assert!(
        checkpoint.warnings()[0].contains("head"),
        "{:?}",
        checkpoint.warnings()
    );
}

#[test]
fn biases_that_a_llama_is_silent_about_are_used_if_every_layer_has_them() {
    let mut model = Model::of("tiny_llama");
    let [query, key_value] = [64, 32];
    let layers = model.config["num_hidden_layers"]
        .as_u64()
        .expect("a number");
    let key = |layer, projection| format!("model.layers.{layer}.self_attn.{projection}_proj.bias");
    for layer in 0..layers {
        for (projection, width) in [("q", query), ("k", key_value), ("v", key_value)] {
            model.add(&key(layer, projection), &[width]);
        }
    }
    // The configuration says that there are none.
    model.config["attention_bias"] = json!(false);
    model.assert_refused(&["self_attn.k_proj.bias"]);

    let config = model.config.as_object_mut().expect("an object");
    config.remove("attention_bias");
    let warnings = model.open().expect("opens");
    assert!(
        warnings.len() == 1 && warnings[0].contains("biases"),
        "{warnings:?}"
    );
    let directory = model.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert!(checkpoint.config().biases.query_key_value && !checkpoint.config().biases.output);
    // What is written of it must be a class that has these biases.
    let written = checkpoint.config().to_hf_json("float32", checkpoint.path());
    assert_eq!(written.expect("can be said")["model_type"], "qwen2");

    model.tensors.remove(&key(0, "v"));
    model.assert_refused(&["self_attn.k_proj.bias"]);
}

#[cfg(feature = "qlora")]
#[test]
fn tensors_decide_whether_a_model_is_in_4_bits() {
    let mut silent = Model::of("tiny_llama_nf4");
    let config = silent.config.as_object_mut().expect("an object");
    let quantization = config.remove("quantization_config").expect("is there");
    let directory = silent.write();
    assert!(
        Checkpoint::open(directory.path())
            .expect("opens")
            .is_bitsandbytes()
    );
    assert_eq!(silent.open().expect("loads"), Vec::<String>::new());

    let mut stale = Model::of("tiny_llama");
    stale.config["quantization_config"] = quantization;
    let directory = stale.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert!(!checkpoint.is_bitsandbytes());
    let [warning] = checkpoint.warnings() else {
        panic!("{:?}", checkpoint.warnings());
    };
    assert!(warning.contains("quantization_config"), "{warning}");
}

/// Programs leave out projections that lose too much.
#[cfg(feature = "qlora")]
#[test]
fn a_model_with_some_projections_in_4_bits_has_the_format_of_those() {
    let source = Model::of("tiny_llama_nf4");
    let whole = Checkpoint::open(fixture("tiny_llama_nf4")).expect("opens");
    let mut model = Model::of("tiny_llama_nf4");
    for projection in ["self_attn.q_proj", "self_attn.o_proj"] {
        let name = format!("model.layers.0.{projection}.weight");
        model.tensors.retain(|tensor, _| !tensor.starts_with(&name));
        model.add(&name, &[64, 64]);
    }
    assert!(model.tensors.len() < source.tensors.len());
    let directory = model.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert_eq!(
        checkpoint.stored_quantization().expect("reads"),
        whole.stored_quantization().expect("reads")
    );
    assert!(checkpoint.stored_quantization().expect("reads").is_some());
}
