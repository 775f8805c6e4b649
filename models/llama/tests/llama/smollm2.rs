//! SmolLM2-135M-Instruct as it is published in GGUF: its tokens, its chat template, and what it says.

use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, Weights};
use qlora_test_support::{json, smollm2};

use crate::fixtures::{devices, greedy};

#[test]
#[ignore = "needs scripts/fetch-smollm2.sh"]
fn tokens_equal_those_of_transformers() {
    let checkpoint = Checkpoint::open(smollm2()).expect("opens");
    let tokenizer = checkpoint.tokenizer().expect("the tokenizer builds");
    let recorded = json("smollm2_tokens.json");
    let cases = recorded["cases"].as_array().expect("cases");
    assert!(cases.len() >= 10);
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let found = tokenizer.encode(text, true).expect("encodes");
        assert_eq!(found.get_ids(), expected, "{text:?}");
        let decoded = tokenizer.decode(&expected, false).expect("decodes");
        assert_eq!(decoded, case["decoded"].as_str().expect("decoded"));
    }
    let special = checkpoint.special_tokens().expect("special tokens");
    assert_eq!(special.bos.expect("bos").text, "<|im_start|>");
    assert_eq!(special.eos.expect("eos").id, 2);
    assert!(!special.add_bos);
    assert!(
        checkpoint
            .chat_template()
            .expect("reads")
            .expect("has one")
            .contains("<|im_start|>")
    );
}

#[test]
#[ignore = "needs scripts/fetch-smollm2.sh"]
fn it_knows_the_capital_of_france() {
    let checkpoint = Checkpoint::open(smollm2()).expect("opens");
    let tokenizer = checkpoint.tokenizer().expect("the tokenizer builds");
    let prompt = tokenizer
        .encode("The capital of France is", true)
        .expect("encodes");
    let continuation = |weights| {
        let device = devices().remove(0);
        let model = Decoder::load(&checkpoint, &LoadOptions::new(weights), &device).expect("loads");
        tokenizer
            .decode(&greedy(&model, prompt.get_ids(), 8), false)
            .expect("decodes")
    };
    for weights in [Weights::Dense, quantized()] {
        let text = continuation(weights);
        assert!(text.starts_with(" Paris."), "{weights:?}: {text:?}");
    }
}

#[cfg(feature = "qlora")]
fn quantized() -> Weights {
    Weights::Quantized(nf4::QuantConfig::default())
}

#[cfg(not(feature = "qlora"))]
fn quantized() -> Weights {
    Weights::AsStored
}

#[test]
#[ignore = "needs scripts/fetch-smollm2.sh"]
fn a_gguf_tokenizer_survives_being_written_as_tokenizer_json() {
    let tokenizer = Checkpoint::open(smollm2())
        .expect("opens")
        .tokenizer()
        .expect("builds");
    let json = tokenizer.to_string(false).expect("serializes");
    let again = tokenizers::Tokenizer::from_bytes(json).expect("reads back");
    let text = "list:\n\n1. one <|im_end|> naïve 日本";
    let ids = |tokenizer: &tokenizers::Tokenizer| {
        tokenizer
            .encode(text, true)
            .expect("encodes")
            .get_ids()
            .to_vec()
    };
    assert_eq!(ids(&tokenizer), ids(&again));
}
