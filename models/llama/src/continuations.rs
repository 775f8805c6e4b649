//! The losses of what may follow a text, which goes through the model once.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use burn_qlora::{Continuations, TokenBatch};

use crate::cache::KvCache;
use crate::model::Decoder;

impl Decoder {
    /// Returns the negative log-likelihoods of the tokens of every continuation of `asked` in turn, with zeros behind them:
    /// `[continuations, longest]`, f32.
    ///
    /// The texts go through the model side by side, once each, and leave keys and values behind, from which their continuations
    /// go on: a continuation of one token takes no pass of its own. Logits are made of the continuations' tokens alone.
    pub(crate) fn continuation_nll(&self, asked: &[Continuations]) -> Tensor<2> {
        let model = self.valid();
        if model.rope().depends_on_length() {
            return model.whole_rows_nll(asked);
        }
        let lengths: Vec<usize> = asked.iter().map(|asked| asked.context.len()).collect();
        let longest = asked.iter().flat_map(|asked| &asked.continuations);
        let longest = longest.map(Vec::len).max().unwrap_or(0);
        let places = lengths.iter().max().copied().unwrap_or(0);
        let mut cache = KvCache::of_lengths(&model, &lengths, places + longest);
        let rows: Vec<usize> = asked
            .iter()
            .enumerate()
            .flat_map(|(row, asked)| asked.continuations.iter().map(move |_| row))
            .collect();
        let next = || asked.iter().flat_map(|asked| &asked.continuations);

        let contexts = asked.iter().zip(&lengths);
        let contexts = contexts.flat_map(|(asked, length)| {
            let padding = std::iter::repeat_n(0, places - length);
            padding.chain(asked.context.iter().map(|id| i64::from(*id)))
        });
        let x = model.continued(contexts.collect(), [asked.len(), places], &mut cache);
        let width = model.config().hidden_size;
        let last = x.slice([0..asked.len(), places - 1..places, 0..width]);
        let last = last.select(0, model.ids(&rows));
        let x = if longest == 1 {
            last
        } else {
            cache.select(&rows);
            let given = next().flat_map(|next| padded(&next[..next.len() - 1], longest - 1, 0));
            let shape = [rows.len(), longest - 1];
            let rest = model.continued(given.collect(), shape, &mut cache);
            Tensor::cat(vec![last, rest], 1)
        };
        let targets = next().flat_map(|next| padded(next, longest, TokenBatch::IGNORED));
        let targets = TensorData::new(targets.collect::<Vec<_>>(), [rows.len(), longest]);
        model.head_token_nll(x.into(), Tensor::from_data(targets, &model.device()))
    }

    /// Returns the losses of continuations each of which is run with all of its text, alone: what rotates by the length of its row
    /// would rotate otherwise beside a longer one, and after a shorter one.
    fn whole_rows_nll(&self, asked: &[Continuations]) -> Tensor<2> {
        let all = asked.iter().flat_map(|asked| {
            let of_each = asked.continuations.iter();
            of_each.map(|next| Continuations {
                context: asked.context.clone(),
                continuations: vec![next.clone()],
            })
        });
        let all: Vec<Continuations> = all.collect();
        let longest = all.iter().map(|one| one.continuations[0].len()).max();
        let longest = longest.unwrap_or(0);
        let losses = all.iter().map(|one| {
            let batch = TokenBatch::of_continuations(std::slice::from_ref(one), &self.device());
            let losses = self.token_nll(batch.input_ids, None, batch.targets);
            let (start, len) = (one.context.len() - 1, one.continuations[0].len());
            let losses = losses.slice([0..1, start..start + len]);
            if len == longest {
                return losses;
            }
            let padding = Tensor::zeros([1, longest - len], (&losses.device(), losses.dtype()));
            Tensor::cat(vec![losses, padding], 1)
        });
        Tensor::cat(losses.collect(), 0)
    }

    /// Returns the last block's output for the next tokens of the rows in `cache`, `[rows, seq, hidden]`.
    fn continued(&self, ids: Vec<i64>, shape: [usize; 2], cache: &mut KvCache) -> Tensor<3> {
        let ids = Tensor::from_data(TensorData::new(ids, shape), &self.device());
        self.continue_rows(self.embed(ids), cache).expect(
            "the cache has room for all continuations, and rotations that no length changes",
        )
    }

    fn ids(&self, places: &[usize]) -> Tensor<1, Int> {
        let places: Vec<i64> = places.iter().map(|place| *place as i64).collect();
        let shape = [places.len()];
        Tensor::from_data(TensorData::new(places, shape), &self.device())
    }
}

/// Goes through `tokens`, and through `padding` up to `len`.
fn padded(tokens: &[u32], len: usize, padding: i64) -> impl Iterator<Item = i64> {
    let rest = len - tokens.len();
    let tokens = tokens.iter().map(|id| i64::from(*id));
    tokens.chain(std::iter::repeat_n(padding, rest))
}
