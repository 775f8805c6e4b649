//! Prompt lookup: what followed the last tokens before is guessed to follow them again, and the model checks several guesses at
//! once.

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::Tensor;

use super::batch::{check, room};
use super::continued::Continued;
use super::greedy::Greedy;
use super::start::SeenText;
use super::{Finish, Generation, GenerationRequest, values};
use crate::error::DecoderError;
use crate::model::Decoder;
use crate::sampling::SamplingConfig;

/// Tokens at the end of a text that are looked up in it: as many as that, or else fewer.
const LONGEST: usize = 3;
/// The fewest: a single token says little about the next.
const SHORTEST: usize = 2;

/// The guesses of a [`Decoder::generate_with_lookup`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guesses {
    /// Tokens that were guessed.
    pub made: usize,
    /// Those that the model then chose.
    pub kept: usize,
}

impl Decoder {
    /// The most guesses that [`generate_with_lookup`](Self::generate_with_lookup) makes at once: with the token before them they
    /// are as many rows as the CPU's kernels multiply without decoding a weight into memory, each with the bits that it has alone.
    pub const MOST_GUESSES: usize = qlora_cpu::dense::FEW_ROWS - 1;

    /// Does what [`generate_on`](Self::generate_on) does, and gives the model up to `guesses` more tokens with each: those that followed
    /// the last two or three where they stood before, in the prompt or in what was written (prompt lookup decoding). Those that it
    /// chooses then cost no step of their own; the others are taken out of the cache again.
    ///
    /// The tokens are those of [`generate_on`](Self::generate_on), since each is chosen from its own logits: with packed weights on Flex
    /// bit for bit, elsewhere up to the rounding of products whose number of rows is another.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and guesses that are none or more than [`MOST_GUESSES`](Self::MOST_GUESSES).
    pub fn generate_with_lookup(
        &self,
        prompt: &[u32],
        config: &SamplingConfig,
        seed: u64,
        guesses: usize,
        seen: &mut Option<SeenText>,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(Generation, Guesses), DecoderError> {
        if !(1..=Self::MOST_GUESSES).contains(&guesses) {
            return Err(DecoderError::Sampling {
                name: "lookup",
                value: guesses.to_string(),
                expected: "1 to 7 guesses",
            });
        }
        let request = GenerationRequest {
            prompt,
            config,
            seed,
        };
        check(self, &request)?;
        let model = self.valid();
        let mut row = Continued::new(0, 0, &request, model.config());
        let start = seen.as_ref().and_then(|seen| seen.start_of(prompt));
        let (mut greedy, mut cache) = match start {
            Some(start) => {
                row.skip(start.tokens());
                (start.greedy(), start.copied(row.capacity()))
            }
            None => (
                Greedy::new(&model),
                room(&model, std::slice::from_ref(&row)),
            ),
        };
        *seen = None;
        let mut text = prompt.to_vec();
        let mut count = Guesses::default();
        loop {
            if let Some(finish) = row.finished() {
                if !model.rope().depends_on_length() {
                    *seen = SeenText::of(&cache, &row, &greedy);
                }
                return Ok((row.into_found(finish), count));
            }
            if row.is_outdated(model.rope()) {
                row.begin_again(0);
                cache = room(&model, std::slice::from_ref(&row));
            }
            let most = if cache.is_empty() {
                0
            } else {
                // The last token that it may have needs no guess, for nothing comes after it.
                let room = (row.capacity() - text.len()).saturating_sub(1);
                guesses.min(room)
            };
            let mut guessed = guess(&text, most);
            if model
                .rope()
                .outdates(text.len(), text.len() + guessed.len())
            {
                guessed.clear();
            }
            let given = [row.pending(), &guessed].concat();
            let asked = guessed.len() + 1;
            let states = burn_fused::on_kernel_thread(&model.device(), || {
                let x = model.embed_known(&given, [1, given.len()]);
                model.last_states(x, asked, &mut cache)
            })?;
            count.made += guessed.len();
            let tokens = if row.is_greedy() {
                greedy.likeliest(&model, &states)?
            } else {
                None
            };
            let next = match tokens {
                Some(tokens) => Next::Tokens(tokens),
                None => Next::read(&model, states)?,
            };
            for place in 0..asked {
                let chosen = next.choose(place, &mut row);
                let chosen = chosen.map_err(|what| DecoderError::NotFinite {
                    tokens: row.len(),
                    what,
                    dtype: model.dtype(),
                })?;
                let Some(token) = chosen else { break };
                text.push(token);
                if on_token(token).is_break() {
                    row.end(Finish::Callback);
                }
                let is_kept = guessed.get(place) == Some(&token);
                count.kept += usize::from(is_kept);
                if !is_kept || row.finished().is_some() {
                    cache.truncate(cache.len() - (guessed.len() - place));
                    break;
                }
            }
        }
    }
}

/// What tells the next tokens, of which there may be fewer than the model was asked for.
enum Next {
    /// The tokens.
    Tokens(Vec<u32>),
    /// The logits of each, `[asked, vocab]`, and their width.
    Logits(Vec<f32>, usize),
}

impl Next {
    /// Reads the logits of the last block's output, `[asked, hidden]`.
    fn read(model: &Decoder, states: Tensor<2>) -> Result<Self, DecoderError> {
        let logits = values(model.logits_of_states(states).try_into_data())?;
        Ok(Self::Logits(logits, model.config().vocab_size))
    }

    /// Chooses the token at `place` for `row`; `None` for one that ends it.
    fn choose(&self, place: usize, row: &mut Continued) -> Result<Option<u32>, String> {
        match self {
            Self::Tokens(tokens) => Ok(row.take(tokens[place])),
            Self::Logits(logits, width) => row.next(logits[place * width..][..*width].to_vec()),
        }
    }
}

/// Returns what may follow `text`, up to `most` tokens: what followed the last tokens where they stood before, the latest such
/// place. A place so late that the text ends too soon after it is taken to go on as it does, round and round.
fn guess(text: &[u32], most: usize) -> Vec<u32> {
    let behind = |len: usize| {
        let last = text.len().checked_sub(len).map(|start| &text[start..])?;
        let mut places = text[..text.len() - 1].windows(len);
        places
            .rposition(|tokens| tokens == last)
            .map(|place| place + len)
    };
    let mut guessed = Vec::with_capacity(most);
    let Some(from) = (SHORTEST..=LONGEST).rev().find_map(behind) else {
        return guessed;
    };
    for place in from..from + most {
        let token = match text.get(place) {
            Some(token) => *token,
            None => guessed[place - text.len()],
        };
        guessed.push(token);
    }
    guessed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_longest_match_is_followed() {
        assert_eq!(guess(&[1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2), [4, 9]);
        assert_eq!(guess(&[8, 2, 3, 5, 2, 3, 6, 9, 2, 3], 3), [6, 9, 2]);
        assert_eq!(guess(&[1, 2, 1, 2, 1], 4), [2, 1, 2, 1]);
        assert_eq!(guess(&[7, 7, 7], 2), [7, 7]);
    }

    #[test]
    fn nothing_is_guessed_where_nothing_stood_before() {
        for text in [&[][..], &[1], &[1, 2], &[1, 2, 3, 1]] {
            assert!(guess(text, 4).is_empty());
        }
        assert!(guess(&[7, 7, 7], 0).is_empty());
    }
}
