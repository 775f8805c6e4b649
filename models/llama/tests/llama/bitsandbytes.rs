//! Checkpoints in bitsandbytes' 4-bit form, read and written.

use burn_qlora_llama::{
    Checkpoint, Decoder, DecoderError, LoadOptions, Weights, write_bitsandbytes,
};
use nf4::{Codebook, QuantConfig};

use qlora_test_support::fixture;
use safetensors::Dtype;

use crate::fixtures::{Reference, devices, max_error};
use crate::tensor_table::Model;

const PLAIN: QuantConfig = QuantConfig {
    codebook: Codebook::Nf4,
    block_size: 64,
    double_quant: false,
};

/// The projections of a recorded model.
fn projections(checkpoint: &Checkpoint) -> Vec<(String, [usize; 2])> {
    let config = checkpoint.config();
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (wide, narrow) = (config.query_width(), config.key_value_width());
    let of_layer = |layer: usize| {
        [
            ("self_attn.q_proj", [wide, hidden]),
            ("self_attn.k_proj", [narrow, hidden]),
            ("self_attn.v_proj", [narrow, hidden]),
            ("self_attn.o_proj", [hidden, wide]),
            ("mlp.gate_proj", [inner, hidden]),
            ("mlp.up_proj", [inner, hidden]),
            ("mlp.down_proj", [hidden, inner]),
        ]
        .map(|(path, shape)| (format!("model.layers.{layer}.{path}.weight"), shape))
    };
    (0..config.layers.len()).flat_map(of_layer).collect()
}

fn write(name: &str, config: QuantConfig) -> (tempfile::TempDir, Checkpoint) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let source = Checkpoint::open(fixture(name)).expect("opens");
    let output = directory.path().join("written");
    let mut last = (0, 1);
    write_bitsandbytes(&source, &output, config, |done, of| last = (done, of)).expect("writes");
    assert_eq!(last.0, last.1);
    let files = std::fs::read_dir(directory.path()).expect("lists").count();
    assert_eq!(files, 1, "nothing but the output is left");
    (
        directory,
        Checkpoint::open(output).expect("what was written opens"),
    )
}

#[test]
fn what_is_written_has_the_codes_of_bitsandbytes() {
    for (source, genuine, config) in [
        ("tiny_llama", "tiny_llama_nf4", QuantConfig::default()),
        ("tiny_llama_tied", "tiny_llama_tied_nf4_nodq", PLAIN),
    ] {
        let (_directory, written) = write(source, config);
        let genuine = Checkpoint::open(fixture(genuine)).expect("opens");
        assert_eq!(written.config(), genuine.config());
        for (name, shape) in projections(&genuine) {
            let expected = genuine
                .read_quantized(&name, shape)
                .expect("reads")
                .expect("is in 4 bits");
            let found = written
                .read_quantized(&name, shape)
                .expect("reads")
                .expect("is in 4 bits");
            assert_eq!(found.layout(), expected.layout(), "{name}");
            assert_eq!(found.packed(), expected.packed(), "{name}");
            // With double quantization bitsandbytes on a CPU takes a neighbouring scale now and then.
            if !config.double_quant {
                assert_eq!(found.absmax(), expected.absmax(), "{name}");
            }
        }
    }
}

#[test]
fn what_is_written_gives_the_recorded_logits() {
    let (_directory, written) = write("tiny_llama_tied", PLAIN);
    for device in devices() {
        let reference = Reference::of("tiny_llama_tied_nf4_nodq");
        let model = Decoder::load(&written, &LoadOptions::default(), &device).expect("loads");
        let logits = model.forward(reference.input_ids(&device));
        let error = max_error(logits, &reference.floats("logits"), &reference.real());
        assert!(error < 1e-4, "{device:?}: {error}");
    }
}

#[test]
fn a_4_bit_checkpoint_is_rewritten_bit_for_bit() {
    let (_directory, written) = write("tiny_llama_nf4", QuantConfig::default());
    let source = Checkpoint::open(fixture("tiny_llama_nf4")).expect("opens");
    for (name, shape) in projections(&source) {
        assert_eq!(
            written.read_quantized(&name, shape).expect("reads"),
            source.read_quantized(&name, shape).expect("reads"),
            "{name}"
        );
    }
}

#[test]
fn quantizing_while_loading_equals_loading_what_was_written() {
    let (_directory, written) = write("tiny_llama", QuantConfig::default());
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    let device = devices().remove(0);
    let ids = Reference::of("tiny_llama").input_ids(&device);
    let logits = |checkpoint: &Checkpoint, weights| {
        let model = Decoder::load(checkpoint, &LoadOptions::new(weights), &device).expect("loads");
        model.forward(ids.clone()).into_data()
    };
    assert_eq!(
        logits(&source, quantized()),
        logits(&written, Weights::AsStored)
    );
}

#[cfg(feature = "qlora")]
fn quantized() -> Weights {
    Weights::Quantized(QuantConfig::default())
}

#[test]
fn a_second_quantization_in_another_format_is_refused() {
    let source = Checkpoint::open(fixture("tiny_llama_nf4")).expect("opens");
    let (name, shape) = projections(&source).remove(0);
    let other = QuantConfig {
        block_size: 128,
        ..QuantConfig::default()
    };
    let error = source
        .quantize(&name, shape, other)
        .expect_err("is refused");
    assert!(
        matches!(error, DecoderError::AlreadyQuantized { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("blocks of 64"), "{error}");
}

/// What `llm_int8_skip_modules: []` gives.
#[test]
fn a_head_in_4_bits_is_written_as_it_is() {
    const HEAD: &str = "lm_head.weight";
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    let shape = [source.config().vocab_size, source.config().hidden_size];
    let head = source.quantize(HEAD, shape, PLAIN).expect("quantizes");
    let mut model = Model::of("tiny_llama");
    model.tensors.remove(HEAD);
    for (name, entry) in nf4::bitsandbytes::write(HEAD, &head, "bfloat16").expect("nf4") {
        let dtype = match entry.dtype {
            nf4::bitsandbytes::Dtype::F32 => Dtype::F32,
            _ => Dtype::U8,
        };
        let tensor = (dtype, entry.shape, entry.data.into_owned());
        model.tensors.insert(name, tensor);
    }
    let directory = model.write();
    let source = Checkpoint::open(directory.path()).expect("opens");
    let output = directory.path().join("written");
    write_bitsandbytes(&source, &output, QuantConfig::default(), |_, _| {}).expect("writes");
    let written = Checkpoint::open(&output).expect("opens");
    let found = written.read_quantized(HEAD, shape).expect("reads");
    assert_eq!(found, Some(head));
    let config = std::fs::read_to_string(output.join("config.json")).expect("reads");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    // Else transformers would look for a head that is not quantized.
    let skipped = &config["quantization_config"]["llm_int8_skip_modules"];
    assert_eq!(skipped, &serde_json::json!([]));
}

#[test]
fn nothing_is_written_when_writing_is_refused() {
    let source = Checkpoint::open(fixture("tiny_llama")).expect("opens");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = directory.path().join("out");
    let int4 = QuantConfig {
        codebook: Codebook::Int4,
        ..QuantConfig::default()
    };
    let error = write_bitsandbytes(&source, &output, int4, |_, _| {}).expect_err("is refused");
    assert!(error.to_string().contains("int4"), "{error}");
    assert!(!output.exists());

    std::fs::create_dir(&output).expect("makes a directory");
    std::fs::write(output.join("mine"), "kept").expect("writes");
    let error = write_bitsandbytes(&source, &output, QuantConfig::default(), |_, _| {})
        .expect_err("is refused");
    assert!(
        matches!(error, DecoderError::OutputExists { .. }),
        "{error}"
    );
    assert_eq!(
        std::fs::read_to_string(output.join("mine")).expect("reads"),
        "kept"
    );
}
