//! What the page calls, without a page.

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor, TensorData};
use burn_qlora::{CausalLm, QuantConfig, TokenBatch, peft};
use burn_qlora_llama::{Checkpoint, Decoder, LoadOptions, SamplingConfig};
use qlora_test_support::{block_on, read_fixture};
use qlora_web::{Processor, Session, SessionError};

const TEXT: &str = "to be or not to be, that is the question: to be or not to be";

fn gguf() -> Vec<u8> {
    read_fixture("families/qwen2/gguf/qwen2-f32.gguf")
}

fn open(
    processor: &Processor,
    gguf: Vec<u8>,
    text: &str,
    context: usize,
) -> Result<Session, SessionError> {
    Session::open("tiny.gguf", gguf, text, context, 8, 1e-2, processor)
}

fn losses(session: &mut Session, steps: usize) -> Vec<f64> {
    let step = |_| block_on(session.step()).unwrap();
    (0..steps).map(step).collect()
}

#[test]
fn the_loss_falls_and_the_adapter_is_one_of_peft() {
    let mut session = open(&Processor::cpu(), gguf(), TEXT, 12).unwrap();
    let rows = session.rows();
    let first: f64 = losses(&mut session, rows).iter().sum();
    losses(&mut session, 20 * rows);
    let last: f64 = losses(&mut session, rows).iter().sum();
    assert!(last < 0.5 * first, "{first} before, {last} after");

    let dir = tempfile::tempdir().unwrap();
    let files = block_on(session.adapter()).unwrap();
    std::fs::write(dir.path().join(peft::CONFIG_FILE), files.config).unwrap();
    std::fs::write(dir.path().join(peft::WEIGHTS_FILE), files.weights).unwrap();
    let checkpoint = Checkpoint::of_gguf("tiny.gguf", gguf()).unwrap();
    let options = LoadOptions::quantized(QuantConfig::default());
    let device = Device::flex();
    let mut again = Decoder::load(&checkpoint, &options, &device).unwrap();
    peft::load(&mut again, dir.path()).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let prompt = tokenizer.encode("to be", true).unwrap();
    let config = SamplingConfig::new().with_max_tokens(8);
    let answer = again.generate(prompt.get_ids(), &config, 0, |_| ControlFlow::Continue(()));
    let answer = tokenizer.decode(&answer.unwrap().tokens, true).unwrap();
    assert_eq!(block_on(session.answer("to be", 8)).unwrap(), answer);

    // The rows are taken in turn, so that this step is the first row's, with the adapter that was handed out.
    let shown = block_on(session.step()).unwrap();
    let ids = tokenizer.encode(TEXT, true).unwrap();
    let row: Vec<i64> = ids.get_ids()[..12]
        .iter()
        .map(|id| i64::from(*id))
        .collect();
    let tensor = |ids: &[i64]| Tensor::from_data(TensorData::new(ids.to_vec(), [1, 11]), &device);
    let batch = TokenBatch {
        input_ids: tensor(&row[..11]),
        starts: None,
        targets: tensor(&row[1..]),
    };
    let loss = (again.loss_sum(&batch) / 11.0).into_scalar::<f32>();
    assert_eq!(shown, f64::from(loss));
}

/// The kernels that the page runs on WebGPU, where there is another way to wait for them.
#[cfg(feature = "wgpu")]
#[test]
fn the_curve_and_the_answer_on_a_gpu_are_those_on_the_cpu() {
    let gpu = block_on(Processor::gpu()).unwrap();
    let [mut on_cpu, mut on_gpu] =
        [Processor::cpu(), gpu].map(|processor| open(&processor, gguf(), TEXT, 12).unwrap());
    let curves = [&mut on_cpu, &mut on_gpu].map(|session| losses(session, 20));
    for (step, (cpu, gpu)) in curves[0].iter().zip(&curves[1]).enumerate() {
        // Sums of f32 in other orders, of which twenty updates make more.
        assert!(
            (cpu - gpu).abs() < 1e-3,
            "step {step}: {cpu} and {gpu} on the GPU"
        );
    }
    let answers = [&on_cpu, &on_gpu].map(|session| block_on(session.answer("to be", 8)));
    let [cpu, gpu] = answers.map(Result::unwrap);
    assert_eq!(cpu, gpu);
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let refusal = |gguf, text, context| {
        let opened = open(&Processor::cpu(), gguf, text, context);
        opened.unwrap_err().to_string()
    };
    let mut damaged = gguf();
    damaged.truncate(damaged.len() / 2);
    for (text, says) in [
        (refusal(damaged, TEXT, 12), "truncated or damaged"),
        (refusal(b"GGUF".to_vec(), TEXT, 12), "tiny.gguf"),
        (refusal(gguf(), TEXT, 1), "give 2 to"),
        (refusal(gguf(), "to", 12), "longer text"),
    ] {
        assert!(text.contains(says) && text.lines().count() == 1, "{text}");
    }
}
