//! GGUF files of the decoder families as llama.cpp's converter wrote them, and metadata of those of which there is no file.

use std::path::Path;

use burn::tensor::{Int, Tensor, TensorData};
use burn_qlora_llama::rope::{RopeConfig, RopeScaling};
use burn_qlora_llama::{
    Checkpoint, Decoder, DecoderConfig, Family, LayerConfig, LoadOptions, NormPlacement,
};
use qlora_test_support::{Recording, fixture};
#[cfg(all(feature = "flex", feature = "qlora"))]
use {burn::tensor::Device, burn_qlora_llama::Weights};

use crate::gguf_file::GgufBuilder;

/// Each family of which there is a file, and what the file is called.
pub const FILES: [(&str, &str); 8] = [
    ("gemma3", "gemma3-f32.gguf"),
    ("granite", "granite-f32.gguf"),
    ("mistral", "mistral-f32.gguf"),
    ("olmo2", "olmo2-bf16.gguf"),
    ("phi3", "phi3-f32.gguf"),
    ("qwen2", "qwen2-f32.gguf"),
    ("qwen3", "qwen3-bf16.gguf"),
    ("smollm3", "smollm3-f32.gguf"),
];

fn open(family: &str, file: &str) -> Checkpoint {
    let path = fixture(format!("families/{family}/gguf/{file}"));
    Checkpoint::open(path).expect("the recorded file opens")
}

/// The description in the family's config.json.
fn described(family: &str) -> DecoderConfig {
    let path = fixture(format!("families/{family}/config.json"));
    let text = std::fs::read_to_string(&path).expect("is there");
    DecoderConfig::from_hf_json(&text, &path).expect("reads").0
}

#[test]
fn logits_match_those_of_transformers_for_what_a_file_says() {
    for device in qlora_test_support::devices!() {
        // Recomputing in f64 moved them by 9e-6; the least fault moves them by 1.2e-3 (fixtures README). GPUs, and the
        // software that stands for one, may contract and approximate.
        let tolerance = if device.is_flex() { 1e-4 } else { 1e-3 };
        for (family, file) in FILES {
            let checkpoint = open(family, file);
            let model = Decoder::load(&checkpoint, &LoadOptions::default(), &device.device)
                .expect("the recorded file loads");
            let reference =
                Recording::open(&format!("families/{family}/gguf/reference.safetensors"));
            let shape = reference.shape("long_input_ids");
            let ids = TensorData::new(reference.i64("long_input_ids"), [shape[0], shape[1]]);
            let logits = model.forward(Tensor::<2, Int>::from_data(ids, &device.device));
            let logits = logits.into_data().try_into_vec::<f32>().expect("f32");
            let expected = reference.f32("long_logits_tail");
            let tail = &logits[logits.len() - expected.len()..];
            let error = tail
                .iter()
                .zip(&expected)
                .fold(0f32, |worst, (found, expected)| {
                    worst.max((found - expected).abs())
                });
            println!("{family} on {}: logits off by {error:e}", device.name);
            assert!(error < tolerance, "{family} on {}: {error}", device.name);
        }
    }
}

#[cfg(all(feature = "flex", feature = "qlora"))]
#[test]
fn blocks_of_every_family_are_kept_as_they_decode() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let device = Device::flex();
    for (family, file) in FILES {
        let path = directory.path().join(file);
        let recorded = fixture(format!("families/{family}/gguf/{file}"));
        GgufBuilder::of(&recorded).in_blocks().write(&path);
        let checkpoint = Checkpoint::open(&path).expect("opens");
        // All but those that multiply what is 40 wide, one a layer; Phi-3 has q, k and v, and gate and up, as one.
        let formats = checkpoint.stored_formats().expect("known");
        let least = checkpoint.config().layers.len() * if family == "phi3" { 3 } else { 6 };
        assert!(formats.len() >= least, "{family}: {formats:?}");
        let logits = |weights| {
            let model = Decoder::load(&checkpoint, &LoadOptions::new(weights), &device);
            let ids = Tensor::<2, Int>::from_data([[3, 1, 4, 1, 5, 9, 2, 6]], &device);
            let logits = model.expect("loads").forward(ids).into_data();
            logits.try_into_vec::<f32>().expect("f32")
        };
        let (kept, dense) = (logits(Weights::Kept), logits(Weights::Dense));
        let error = kept
            .iter()
            .zip(&dense)
            .fold(0f32, |worst, (kept, dense)| worst.max((kept - dense).abs()));
        println!("{family}: {error:e}");
        // The same values, if summed in another order.
        assert!(error < 1e-4, "{family}: {error}");
    }
}

#[test]
fn a_file_describes_what_the_config_does_but_for_what_it_cannot_say() {
    for (family, file) in FILES {
        let mut expected = described(family);
        match family {
            // The window; and with it the family is LLaMA.
            "mistral" => {
                expected.family = Family::Llama;
                expected.layers = vec![LayerConfig::default(); expected.layers.len()];
            }
            // The factor of the scores, which llama.cpp takes from the width of a head.
            "gemma3" => expected.attention_scale = Some((expected.head_dim as f64).powf(-0.5)),
            _ => {}
        }
        assert_eq!(open(family, file).config(), &expected, "{family}");
    }
}

/// Metadata in the words of llama.cpp, with as many tensors as there are layers.
fn metadata(architecture: &str, config: &DecoderConfig) -> GgufBuilder {
    let mut file = GgufBuilder::new();
    file.describe(architecture, config);
    file.number(
        &format!("{architecture}.vocab_size"),
        config.vocab_size as u32,
    );
    file.number("tokenizer.ggml.bos_token_id", 1);
    file.number("tokenizer.ggml.eos_token_id", 2);
    for layer in 0..config.layers.len() {
        file.floats(&format!("blk.{layer}.attn_norm.weight"), &[1], &[1.0]);
    }
    file
}

/// The description in a file with the metadata of `file`.
fn read(file: &GgufBuilder) -> DecoderConfig {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    file.write(&path);
    let checkpoint = Checkpoint::open(&path).expect("opens");
    checkpoint.config().clone()
}

#[test]
fn yarn_is_read_as_from_a_config() {
    let expected = described("llama_yarn");
    let mut file = metadata("llama", &expected);
    file.text("llama.rope.scaling.type", "yarn");
    file.float("llama.rope.scaling.factor", 4.0);
    file.number("llama.rope.scaling.original_context_length", 256);
    file.float("llama.rope.scaling.yarn_beta_fast", 8.0);
    assert_eq!(read(&file), expected);

    // An explicit factor of the rotated values wins.
    file.float("llama.rope.scaling.yarn_attn_factor", 1.25);
    let RopeScaling::Yarn {
        attention_factor, ..
    } = read(&file).rotations[0].scaling
    else {
        panic!("not YaRN");
    };
    assert_eq!(attention_factor, 1.25);
}

#[test]
fn ministral3_is_read_as_from_a_config() {
    let expected = described("ministral3");
    let mut file = metadata("mistral3", &expected);
    file.text("mistral3.rope.scaling.type", "yarn");
    for (key, value) in [
        ("rope.scaling.factor", 16.0),
        ("rope.scaling.yarn_beta_fast", 0.5),
        ("rope.scaling.yarn_beta_slow", 0.05),
        ("rope.scaling.yarn_log_multiplier", 1.0),
        ("attention.temperature_scale", 0.3),
    ] {
        file.float(&format!("mistral3.{key}"), value);
    }
    file.number("mistral3.rope.scaling.original_context_length", 8);
    assert_eq!(read(&file), expected);
}

#[test]
fn longrope_is_read_as_from_a_config() {
    let expected = described("phi3_longrope");
    let mut file = metadata("phi3", &expected);
    let RopeScaling::LongRope {
        short_factor,
        long_factor,
        attention_factor,
        ..
    } = &expected.rotations[0].scaling
    else {
        panic!("the config has no longrope");
    };
    let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<_>>();
    file.float("phi3.rope.scaling.attn_factor", *attention_factor as f32);
    file.number("phi3.rope.scaling.original_context_length", 16);
    file.number("phi3.attention.sliding_window", 12);
    file.floats("rope_factors_short.weight", &[8], &narrow(short_factor));
    file.floats("rope_factors_long.weight", &[8], &narrow(long_factor));
    let mut found = read(&file);
    // The file has it in f32.
    if let RopeScaling::LongRope {
        attention_factor: found,
        ..
    } = &mut found.rotations[0].scaling
    {
        assert!((*found - attention_factor).abs() < 1e-7);
        *found = *attention_factor;
    }
    assert_eq!(found, expected);
}

#[test]
fn gemma2_is_read_as_from_a_config_but_for_the_factor_of_the_scores() {
    let mut expected = described("gemma2");
    expected.attention_scale = Some(24f64.powf(-0.5));
    let mut file = metadata("gemma2", &expected);
    file.float("gemma2.attn_logit_softcapping", 3.0);
    file.float("gemma2.final_logit_softcapping", 4.0);
    file.number("gemma2.attention.sliding_window", 8);
    assert_eq!(read(&file), expected);

    // What llama.cpp takes where a file does not say.
    let bare = read(&metadata("gemma2", &expected));
    assert_eq!(
        (bare.attention_softcap, bare.logits_softcap),
        (Some(50.0), Some(30.0))
    );
    let windows: Vec<_> = bare.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [Some(4096), None, Some(4096), None]);
}

#[test]
fn the_models_of_27_billion_parameters_are_known_by_their_layers() {
    for (architecture, family, layers) in [("gemma2", "gemma2", 46), ("gemma3", "gemma3", 62)] {
        let mut config = described(family);
        config.layers = vec![LayerConfig::default(); layers];
        config.head_dim = 128;
        // 64 values in 4 heads.
        assert_eq!(
            read(&metadata(architecture, &config)).attention_scale,
            Some(0.25)
        );
    }
}

#[test]
fn a_pattern_of_windows_is_a_period_or_a_list() {
    let mut file = metadata("gemma3", &described("gemma3"));
    let windows = |file: &GgufBuilder| {
        let layers = read(file).layers;
        layers
            .iter()
            .map(|layer| layer.window.is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        windows(&file),
        [false; 6],
        "without a window nothing slides"
    );
    file.number("gemma3.attention.sliding_window", 8);
    assert_eq!(windows(&file), [true, true, true, true, true, false]);
    file.number("gemma3.attention.sliding_window_pattern", 3);
    assert_eq!(windows(&file), [true, true, false, true, true, false]);
    let listed = [false, true, true, false, true, false];
    file.flags("gemma3.attention.sliding_window_pattern", &listed);
    assert_eq!(windows(&file), listed);
    // Layers that slide rotate by the local base.
    let config = read(&file);
    let local = RopeConfig::new().with_theta(10_000.0);
    assert_eq!(
        config.rotations[config.layers[1].rotation.expect("rotates")],
        local
    );
}

#[test]
fn the_factors_of_llama_31_are_written_as_its_scaling_and_others_are_refused() {
    let config = described("llama_yarn");
    let theta = 500_000.0;
    let plain = RopeConfig::new().with_theta(theta);
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let scaled = plain.clone().with_scaling(scaling.clone());
    let [plain, scaled] = [plain, scaled].map(|rope| rope.inverse_frequencies(config.head_dim, 1));
    let factors: Vec<f32> = plain
        .iter()
        .zip(&scaled)
        .map(|(plain, scaled)| plain / scaled)
        .collect();
    let written = |factors: &[f32]| {
        let mut file = metadata("llama", &config);
        file.float("llama.rope.freq_base", theta as f32);
        file.floats("rope_freqs.weight", &[factors.len()], factors);
        read(&file).to_hf_json("float32", Path::new("config.json"))
    };
    let json = written(&factors).expect("is written").to_string();
    let (again, _) = DecoderConfig::from_hf_json(&json, Path::new("config.json")).expect("reads");
    assert_eq!(again.rotations[0].scaling, scaling);
    let refused = written(&vec![2.0; factors.len()]).expect_err("is refused");
    assert!(
        refused.to_string().contains("rope_freqs.weight"),
        "{refused}"
    );
}

#[test]
fn the_first_gemma_has_norms_before_its_blocks_and_nothing_of_the_later_ones() {
    let sizes = described("gemma2");
    let found = read(&metadata("gemma", &sizes));
    assert_eq!(found.family, Family::Gemma);
    assert_eq!(found.norm_placement, NormPlacement::Before);
    assert!(found.norm_unit_offset && found.tie_word_embeddings);
    assert_eq!(found.activation, sizes.activation);
    assert_eq!(found.embedding_multiplier, 8.0);
    assert_eq!(
        (found.attention_softcap, found.logits_softcap),
        (None, None)
    );
    assert_eq!(found.layers, vec![LayerConfig::default(); 4]);
}
