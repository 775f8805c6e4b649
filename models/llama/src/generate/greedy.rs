//! The likeliest token without the whole head.

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor, TensorData};
use qlora_cpu::{Cpu, Shortlist, dense::FEW_ROWS};

use super::values;
use crate::error::DecoderError;
use crate::model::Decoder;

/// Rows of the head that are copied at a time.
const ROWS: usize = 256;
/// Values of a head below which it is no matter what is read of it.
const LEAST_VALUES: usize = 1 << 22;
/// Steps that are made with the whole head, before it is copied: what the copy costs is what it saves in about as many.
const BEFORE_COPY: usize = 12;

/// The choice of the likeliest token. Clones share the copy of the head.
#[derive(Clone, Debug)]
pub struct Greedy {
    /// Steps that are still made with the whole head; `None` where all are.
    wait: Option<usize>,
    head: Option<Arc<GreedyHead>>,
}

impl Greedy {
    /// Returns the choice for steps of `model`.
    pub fn new(model: &Decoder) -> Self {
        let config = model.config();
        let is_wide = config.vocab_size * config.hidden_size >= LEAST_VALUES;
        Self {
            wait: is_wide.then_some(BEFORE_COPY),
            head: None,
        }
    }

    /// Returns the likeliest token after each of the last block's outputs, `[rows, hidden]`; `None` where the whole head has to tell.
    /// `model` is one without autodiff, the same in every step.
    ///
    /// # Errors
    /// A device that fails.
    pub fn likeliest(
        &mut self,
        model: &Decoder,
        states: &Tensor<2>,
    ) -> Result<Option<Vec<u32>>, DecoderError> {
        match self.wait {
            None => return Ok(None),
            Some(0) => {}
            Some(steps) => {
                self.wait = Some(steps - 1);
                return Ok(None);
            }
        }
        if self.head.is_none() {
            self.head = GreedyHead::new(model)?.map(Arc::new);
        }
        match &self.head {
            Some(head) => head.likeliest(model, &model.norm.forward(states.clone())),
            None => {
                self.wait = None;
                Ok(None)
            }
        }
    }
}

/// What finds the likeliest token: few rows of the head may have the largest logit ([`Shortlist`]), and those are multiplied as
/// the whole head would be, so that the token is the one that its logits have.
#[derive(Debug)]
struct GreedyHead {
    list: Shortlist,
    /// How much of itself a logit may be rounded by.
    rounding: f32,
}

impl GreedyHead {
    /// Returns the one of a model; `None` where logits are not the products of a dense head and a positive number, or the CPU's
    /// kernels do not compute them.
    fn new(model: &Decoder) -> Result<Option<Self>, DecoderError> {
        let rounding = match model.dtype() {
            DType::F32 => 2f32.powi(-21),
            // The product and its multiple, each rounded to 8 bits.
            DType::BF16 => 2f32.powi(-6),
            _ => return Ok(None),
        };
        #[cfg(feature = "qlora")]
        if model.head_adapter.is_some() {
            return Ok(None);
        }
        let logits = model.config().logits();
        let shape = [model.config().vocab_size, model.config().hidden_size];
        let is_served = logits.softcap.is_none()
            && logits.scale > 0.0
            && shape[1].is_multiple_of(32)
            && burn_fused::runs_cpu_kernels(&model.device());
        if !is_served {
            return Ok(None);
        }
        let head = model.head();
        let list = Shortlist::new(Cpu::default(), shape, |first| {
            let last = (first + ROWS).min(shape[0]);
            values(
                head.clone()
                    .slice([first..last, 0..shape[1]])
                    .try_into_data(),
            )
        });
        Ok(list?.map(|list| Self { list, rounding }))
    }

    /// Returns the likeliest token after each of the normalized states `hidden: [rows, hidden]`; `None` where the whole head has to
    /// tell.
    ///
    /// # Errors
    /// A device that fails.
    fn likeliest(
        &self,
        model: &Decoder,
        hidden: &Tensor<2>,
    ) -> Result<Option<Vec<u32>>, DecoderError> {
        let [rows, width] = hidden.dims();
        if rows > FEW_ROWS {
            return Ok(None);
        }
        let x = values(hidden.clone().try_into_data())?;
        let Some(estimates) = self.list.estimates(Cpu::default(), &x, rows) else {
            return Ok(None);
        };
        let scale = model.config().logits().scale as f32;
        let mut tokens = Vec::with_capacity(rows);
        for row in 0..rows {
            let hidden = hidden.clone().slice([row..row + 1, 0..width]);
            let logits = |tokens: &[u32]| {
                let places = places(tokens, &model.device());
                values(model.logits_of(hidden.clone(), places).try_into_data())
            };
            // With one logit as it is, few others remain.
            let first = logits(&[estimates.likeliest(row)])?;
            let candidates = estimates.candidates(row, first[0] / scale, self.rounding);
            let mut likeliest = (0, f32::NEG_INFINITY);
            for (token, logit) in candidates.iter().zip(logits(&candidates)?) {
                if !logit.is_finite() {
                    return Ok(None);
                }
                if logit > likeliest.1 {
                    likeliest = (*token, logit);
                }
            }
            tokens.push(likeliest.0);
        }
        Ok(Some(tokens))
    }
}

fn places(rows: &[u32], device: &burn::tensor::Device) -> Tensor<1, Int> {
    let places: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    Tensor::from_data(TensorData::new(places, [rows.len()]), device)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::module::Param;
    use burn::tensor::Device;
    use qlora_test_support::random::uniform;

    use super::*;
    use crate::config::DecoderConfig;

    /// A model whose head has every row twice, the second time a little longer: in bf16 most of those logits are alike.
    fn model(vocab: usize, dtype: DType) -> Decoder {
        let text = r#"{"model_type": "llama", "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true}"#;
        let text = text.replace("VOCAB", &vocab.to_string());
        let (config, _) = DecoderConfig::from_hf_json(&text, Path::new("config.json")).unwrap();
        let device = Device::flex();
        let mut model = config.init(&device).unwrap();
        let rows = tensor(1, [vocab / 2, 64], DType::F32);
        let head = Tensor::cat(vec![rows.clone(), rows * 1.000_01], 0);
        model.embed_tokens.weight = Param::from_tensor(head.cast(dtype));
        model
    }

    fn tensor(seed: u64, shape: [usize; 2], dtype: DType) -> Tensor<2> {
        let values = uniform(seed, shape[0] * shape[1]);
        let values = TensorData::new(values, shape);
        Tensor::<2>::from_data(values, &Device::flex()).cast(dtype)
    }

    #[test]
    fn it_is_the_token_that_the_logits_have() {
        for dtype in [DType::F32, DType::BF16] {
            let model = model(600, dtype);
            let head = GreedyHead::new(&model).unwrap().expect("it is served");
            for seed in 0..20 {
                let rows = seed as usize % FEW_ROWS + 1;
                let hidden = tensor(100 + seed, [rows, 64], dtype);
                let found = head.likeliest(&model, &hidden).unwrap().expect("finite");
                let logits = values(model.logits(hidden).try_into_data()).unwrap();
                for (found, logits) in found.iter().zip(logits.chunks(600)) {
                    let mut sorted: Vec<usize> = (0..600).collect();
                    // Stable: of those alike the first stays the first.
                    sorted.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                    assert_eq!(*found as usize, sorted[0], "{dtype:?} {seed}");
                }
            }
            let broken = tensor(1, [1, 64], dtype) * f32::NAN;
            assert_eq!(head.likeliest(&model, &broken).unwrap(), None);
        }
    }

    #[test]
    fn a_copy_is_for_wide_heads_after_a_while() {
        let narrow = model(600, DType::F32);
        let hidden = tensor(1, [1, 64], DType::F32);
        let mut greedy = Greedy::new(&narrow);
        for _ in 0..BEFORE_COPY + 2 {
            assert_eq!(greedy.likeliest(&narrow, &hidden).unwrap(), None);
        }
        let wide = model(1 << 16, DType::F32);
        let mut greedy = Greedy::new(&wide);
        for _ in 0..BEFORE_COPY {
            assert_eq!(greedy.likeliest(&wide, &hidden).unwrap(), None);
        }
        assert!(greedy.likeliest(&wide, &hidden).unwrap().is_some());
        assert!(GreedyHead::new(&model(600, DType::F16)).unwrap().is_none());
    }
}
