//! The tables of angles of one forward pass.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use burn_fused::RotationAngles;

use super::RopeConfig;
use crate::config::DecoderConfig;

/// The rotations of one model, from which tables of angles are made on demand.
///
/// The tables of one forward pass are computed on the host and shared by all layers. They are cheap (two
/// functions a position and frequency), so nothing of them is kept in the module, saved or moved.
#[derive(Clone, Debug)]
pub struct Rope {
    configs: Vec<RopeConfig>,
    head_dim: usize,
}

/// The positions of a batch's tokens: their angles in every rotation of the model, and the first place of each token's
/// sequence.
#[derive(Clone, Debug)]
pub struct Positions {
    /// One for each of the model's rotations, in their order.
    pub rotations: Vec<Rotation>,
    /// The place in its row of the first token of each token's sequence, `[batch, seq]`; `None` where every
    /// row is one sequence.
    pub starts: Option<Tensor<2, Int>>,
}

/// The tables by which queries and keys rotate: the same, unless a factor of the queries grows with their positions.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Of the queries.
    pub query: RotaryTable,
    /// Of the keys.
    pub key: RotaryTable,
}

impl Rotation {
    /// Returns the tables as [`burn_fused::cached_attention`] takes them.
    pub(crate) fn angles(&self) -> RotationAngles {
        let [query, key] = [&self.query, &self.key];
        let [query, key] = [query, key].map(|table| [table.cos.clone(), table.sin.clone()]);
        RotationAngles { query, key }
    }
}

/// Consecutive positions of a sequence, behind padding.
struct Run {
    /// The tokens of the whole sequence.
    length: usize,
    /// Places before the first position, which are turned by no angle.
    padding: usize,
    positions: Range<usize>,
}

/// Cosines and sines of the angles, times the factor of the rotated values.
///
/// Both are `[seq, rotary_dim / 2]`, or `[batch · seq, rotary_dim / 2]` where rows hold several sequences; f32.
#[derive(Clone, Debug)]
pub struct RotaryTable {
    /// Cosines.
    pub cos: Tensor<2>,
    /// Sines.
    pub sin: Tensor<2>,
}

impl Rope {
    /// Returns the rotations of a model.
    pub fn new(config: &DecoderConfig) -> Self {
        Self {
            configs: config.rotations.clone(),
            head_dim: config.head_dim,
        }
    }

    /// Returns whether keys cached in a sequence of `before` tokens are rotated otherwise in one of `after`.
    pub fn outdates(&self, before: usize, after: usize) -> bool {
        let mut configs = self.configs.iter();
        configs.any(|config| config.scaling.outdates(before, after))
    }

    /// Returns the positions `start..start + seq`, in every row.
    pub fn positions(&self, start: usize, seq: usize, device: &Device) -> Positions {
        self.positions_in(start + seq, start, seq, device)
    }

    /// Returns whether a batch of longer rows rotates its first tokens otherwise.
    pub fn depends_on_length(&self) -> bool {
        let mut configs = self.configs.iter();
        configs.any(|config| config.scaling.depends_on_length())
    }

    /// Returns the positions of the places `start..start + seq` in rows that begin behind `padding` places each: a row's
    /// tokens have the positions that they would have in it alone, whatever the others' lengths.
    pub fn padded_positions(
        &self,
        start: usize,
        seq: usize,
        padding: &[usize],
        device: &Device,
    ) -> Positions {
        if padding.iter().all(|padding| *padding == 0) {
            return self.positions(start, seq, device);
        }
        let end = start + seq;
        let runs = padding.iter().map(|&padding| Run {
            length: end.saturating_sub(padding),
            padding: padding.saturating_sub(start).min(seq),
            positions: start.saturating_sub(padding)..end.saturating_sub(padding),
        });
        let starts = padding.iter().flat_map(|&padding| {
            // Padding sees itself alone.
            (start..end).map(move |place| padding.min(place) as i64)
        });
        let starts = TensorData::new(starts.collect::<Vec<_>>(), [padding.len(), seq]);
        Positions {
            rotations: self.rotations(&runs.collect::<Vec<_>>(), device),
            starts: Some(Tensor::from_data(starts, device)),
        }
    }

    /// Returns the positions `start..start + seq` of sequences of which the longest has `length` tokens.
    fn positions_in(&self, length: usize, start: usize, seq: usize, device: &Device) -> Positions {
        let run = Run {
            length,
            padding: 0,
            positions: start..start + seq,
        };
        Positions {
            rotations: self.rotations(&[run], device),
            starts: None,
        }
    }

    /// Returns the tables of every rotation, the rows of one run below those of the one before.
    fn rotations(&self, runs: &[Run], device: &Device) -> Vec<Rotation> {
        let rotation = |config: &RopeConfig| {
            let frequencies: Vec<Vec<f32>> = runs
                .iter()
                .map(|run| config.inverse_frequencies(self.head_dim, run.length))
                .collect();
            let table = |factor: &dyn Fn(usize) -> f32| {
                RotaryTable::new(runs, &frequencies, factor, device)
            };
            let attention_factor = config.attention_factor();
            let key = table(&|_| attention_factor);
            let query = match config.query_scaling {
                Some(_) => table(&|position| attention_factor * config.query_factor(position)),
                None => key.clone(),
            };
            Rotation { query, key }
        };
        self.configs.iter().map(rotation).collect()
    }

    /// Returns the positions in rows of several sequences, each from 0 on; `starts: [batch, seq]` as in [`Positions`].
    pub fn packed_positions(&self, starts: Tensor<2, Int>) -> Positions {
        let [batch, seq] = starts.dims();
        let device = starts.device();
        let places = Tensor::<1, Int>::arange(0..seq as i64, &device);
        let positions = places.unsqueeze::<2>().expand([batch, seq]) - starts.clone();
        let positions = positions.clamp_min(0).reshape([batch * seq]);
        let length = if self.depends_on_length() {
            longest(positions.clone())
        } else {
            seq
        };
        let all = self.positions_in(length, 0, seq, &device);
        let rotations = all.rotations.into_iter().map(|rotation| Rotation {
            query: rotation.query.select(positions.clone()),
            key: rotation.key.select(positions.clone()),
        });
        Positions {
            rotations: rotations.collect(),
            starts: Some(starts),
        }
    }
}

/// Returns the length of the longest sequence, given its tokens' positions; waits for the device.
fn longest(positions: Tensor<1, Int>) -> usize {
    let last = positions.max().into_scalar::<i64>();
    usize::try_from(last + 1).unwrap_or(0)
}

impl Run {
    /// Returns the position of every place, that of padding 0.
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        std::iter::repeat_n(0, self.padding).chain(self.positions.clone())
    }
}

impl RotaryTable {
    /// Returns the table of the places of `runs`, each of which has its own `frequencies`.
    fn new(
        runs: &[Run],
        frequencies: &[Vec<f32>],
        factor: &dyn Fn(usize) -> f32,
        device: &Device,
    ) -> Self {
        let places = runs.iter().map(|run| run.padding + run.positions.len());
        let width = frequencies.first().map_or(0, Vec::len);
        let shape = [places.sum(), width];
        let mut cos = Vec::with_capacity(shape[0] * shape[1]);
        let mut sin = Vec::with_capacity(shape[0] * shape[1]);
        for (run, frequencies) in runs.iter().zip(frequencies) {
            for position in run.places() {
                let factor = factor(position);
                for frequency in frequencies {
                    // The product is rounded to f32 as the peers round it; at positions in the thousands that
                    // shifts the angle by more than the rounding of its sine.
                    let angle = f64::from(position as f32 * frequency);
                    cos.push(angle.cos() as f32 * factor);
                    sin.push(angle.sin() as f32 * factor);
                }
            }
        }
        Self {
            cos: Tensor::from_data(TensorData::new(cos, shape), (device, DType::F32)),
            sin: Tensor::from_data(TensorData::new(sin, shape), (device, DType::F32)),
        }
    }

    /// Returns the rows of `positions: [batch · seq]`.
    fn select(self, positions: Tensor<1, Int>) -> Self {
        Self {
            cos: self.cos.select(0, positions.clone()),
            sin: self.sin.select(0, positions),
        }
    }

    /// Rotates `x: [batch, seq, heads, head_dim]`.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        burn_fused::rope(x, self.cos.clone(), self.sin.clone())
    }
}
