//! Attention in a window and with a soft cap, against the formula.

use std::ops::{Range, RangeInclusive};

use cubecl::client::Client;
use cubecl::ir::{ElemType, IntKind};
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use nf4::attention::{AttentionConfig, AttentionShape};
use qlora_cubecl::fused::attention::{self, Angles, CachedOperands, Operands};
use qlora_test_support::random::uniform;

use crate::support::{F32, assert_close, read_values, tolerance, upload_values};

const I32: ElemType = ElemType::Int(IntKind::I32);

/// An attention and its operands.
#[derive(Clone)]
struct Case {
    shape: AttentionShape,
    config: AttentionConfig,
    starts: Option<Vec<i32>>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Of the result.
    grad: Vec<f32>,
}

/// What attention makes: the results and the gradients.
struct Outcome<T> {
    y: Vec<T>,
    lse: Vec<T>,
    gradients: [Vec<T>; 3],
}

impl Case {
    /// A batch of two whose scores reach to `gain`.
    fn new(
        [q_len, kv_len]: [usize; 2],
        [kv_heads, group, head_dim]: [usize; 3],
        gain: f32,
        window: Option<usize>,
        softcap: Option<f64>,
    ) -> Self {
        let shape = AttentionShape {
            batch: 2,
            q_len,
            kv_len,
            kv_heads,
            group,
            head_dim,
        };
        let values = |seed, len, heads| uniform(seed, shape.batch * len * heads * head_dim);
        Self {
            shape,
            config: AttentionConfig {
                scale: f64::from(3.0 * gain / head_dim as f32),
                window,
                softcap,
            },
            starts: None,
            q: values(1, q_len, shape.heads()),
            k: values(2, kv_len, kv_heads),
            v: values(3, kv_len, kv_heads),
            grad: values(4, q_len, shape.heads()),
        }
    }

    /// With sequences of `length` positions one after another.
    fn packed(mut self, length: usize) -> Self {
        let AttentionShape { batch, q_len, .. } = self.shape;
        let starts = (0..batch * q_len).map(|i| (i % q_len / length * length) as i32);
        self.starts = Some(starts.collect());
        self
    }

    /// Returns the keys that a query sees, by the definition.
    fn seen(&self, batch: usize, query: usize) -> RangeInclusive<usize> {
        let AttentionShape { q_len, kv_len, .. } = self.shape;
        let own = kv_len - q_len + query;
        let start = |starts: &Vec<i32>| starts[batch * q_len + query] as usize;
        let first = self.starts.as_ref().map_or(0, start);
        let window = self.config.window.unwrap_or(kv_len);
        first.max((own + 1).saturating_sub(window))..=own
    }

    fn run(&self, client: &Client) -> Outcome<f32> {
        let AttentionShape {
            batch,
            q_len,
            kv_len,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        let heads = self.shape.heads();
        let tensor = |values: &[f32], shape: [usize; 4]| {
            TensorHandle::new_contiguous(shape, upload_values(client, values, F32).0, F32)
        };
        let of_q = |values: &[f32]| tensor(values, [batch, q_len, heads, head_dim]);
        let of_k = |values: &[f32]| tensor(values, [batch, kv_len, kv_heads, head_dim]);
        let operands = Operands {
            q: of_q(&self.q),
            k: of_k(&self.k),
            v: of_k(&self.v),
            starts: self.starts.as_ref().map(|starts| {
                let starts = client.create_from_slice(i32::as_bytes(starts));
                TensorHandle::new_contiguous([batch, q_len], starts, I32)
            }),
            config: self.config,
        };
        let results = attention::forward(client, operands.clone()).unwrap();
        let [y, lse] = results
            .each_ref()
            .map(|result| read_values(client, result.handle.clone(), F32));
        let gradients = attention::backward(client, operands, results, of_q(&self.grad)).unwrap();
        let gradients = gradients.map(|gradient| read_values(client, gradient.handle, F32));
        Outcome { y, lse, gradients }
    }

    fn formula(&self) -> Outcome<f64> {
        let AttentionShape {
            batch,
            q_len,
            kv_len,
            kv_heads,
            group,
            head_dim: d,
        } = self.shape;
        let heads = self.shape.heads();
        let (scale, cap) = (self.config.scale, self.config.softcap);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        let mut y = vec![0.0; self.q.len()];
        let mut lse = Vec::new();
        let mut gradients = [&self.q, &self.k, &self.v].map(|values| vec![0.0; values.len()]);
        for row in 0..batch * q_len * heads {
            let (position, head) = (row / heads, row % heads);
            let (batch, query) = (position / q_len, position % q_len);
            let of_query = row * d..(row + 1) * d;
            let (q, grad) = (&self.q[of_query.clone()], &self.grad[of_query.clone()]);
            let of_key = |key| {
                let row = (batch * kv_len + key) * kv_heads + head / group;
                row * d..(row + 1) * d
            };
            let score = |key| {
                let score = scale * dot(q, &self.k[of_key(key)]);
                cap.map_or(score, |cap| cap * (score / cap).tanh())
            };
            let seen = self.seen(batch, query);
            let total: f64 = seen.clone().map(|key| score(key).exp()).sum();
            lse.push(total.ln());
            let p = |key| score(key).exp() / total;
            let dp = |key| dot(grad, &self.v[of_key(key)]);
            let mean: f64 = seen.clone().map(|key| p(key) * dp(key)).sum();
            for key in seen {
                let (p, of_key) = (p(key), of_key(key));
                let slope = cap.map_or(1.0, |cap| 1.0 - (score(key) / cap).powi(2));
                let ds = p * (dp(key) - mean) * slope * scale;
                for i in 0..d {
                    let (in_query, in_key) = (of_query.start + i, of_key.start + i);
                    y[in_query] += p * f64::from(self.v[in_key]);
                    gradients[0][in_query] += ds * f64::from(self.k[in_key]);
                    gradients[1][in_key] += ds * f64::from(q[i]);
                    gradients[2][in_key] += p * f64::from(grad[i]);
                }
            }
        }
        Outcome { y, lse, gradients }
    }

    fn check(&self, client: &Client) {
        let (found, expected) = (self.run(client), self.formula());
        let what = format!("{:?}, {:?}", self.shape, self.config);
        let close = |found: &[f32], expected: &[f64], name: &str| {
            let what = format!("{name} of {what}, packed: {}", self.starts.is_some());
            assert_close(found, expected, tolerance(F32), &what);
        };
        close(&found.y, &expected.y, "y");
        close(&found.lse, &expected.lse, "lse");
        let gradients = found.gradients.iter().zip(&expected.gradients);
        for ((found, expected), name) in gradients.zip(["dq", "dk", "dv"]) {
            close(found, expected, name);
        }
    }
}

/// Windows of one key, that end within cubes and tiles, of all keys but one, and longer than the row; from the first query on and
/// from the middle of a cache; lanes that share a head, and a head that no vector divides.
pub fn windows_match_the_formula(client: &Client) {
    let heads = [2, 2, 24];
    for window in [1, 7, 32, 69, 70, 1000] {
        Case::new([70, 70], heads, 1.0, Some(window), None).check(client);
    }
    for (lengths, window) in [([1, 90], 8), ([5, 90], 33), ([40, 130], 50)] {
        Case::new(lengths, heads, 1.0, Some(window), None).check(client);
    }
    Case::new([40, 40], [1, 3, 128], 1.0, Some(9), None).check(client);
    Case::new([40, 40], [1, 2, 5], 1.0, Some(9), None).check(client);
    for (length, window) in [(20, 8), (20, 64), (7, 19)] {
        Case::new([70, 70], heads, 1.0, Some(window), None)
            .packed(length)
            .check(client);
    }
}

/// Scores far below the cap, around it, and far beyond it, where e to their power overflows; alone and in a window.
pub fn soft_caps_match_the_formula(client: &Client) {
    let heads = [2, 2, 24];
    for (gain, cap) in [(0.1, 50.0), (3.0, 3.0), (30.0, 5.0), (1e30, 2.0)] {
        Case::new([40, 40], heads, gain, None, Some(cap)).check(client);
    }
    Case::new([40, 75], heads, 3.0, Some(12), Some(3.0)).check(client);
    Case::new([70, 70], heads, 3.0, Some(12), Some(3.0))
        .packed(30)
        .check(client);
}

/// Queries, or keys, of the largest cube.
const CUBE: usize = 128;

/// Turns the elements of some positions of `[2, len, heads, head_dim]` to NaN.
fn spoil(values: &mut [f32], len: usize, spoiled: Range<usize>) {
    let width = values.len() / (2 * len);
    for (position, row) in values.chunks_mut(width).enumerate() {
        if spoiled.contains(&(position % len)) {
            row.fill(f32::NAN);
        }
    }
}

/// Asserts that some positions of `[2, len, ..]` have the same bits in both.
#[track_caller]
fn assert_same(found: &[f32], expected: &[f32], len: usize, positions: Range<usize>) {
    let width = found.len() / (2 * len);
    let rows = found.chunks(width).zip(expected.chunks(width));
    for (position, (found, expected)) in rows.enumerate() {
        if positions.contains(&(position % len)) {
            assert_eq!(found, expected, "position {position}");
        }
    }
}

/// What a window hides may hold anything, or a hidden NaN times a probability of 0 would show: for the one query of a step of
/// generation all keys behind its window, for many those before their cube's first window.
pub fn keys_behind_the_window_are_not_looked_at(client: &Client) {
    let window = 8;
    let len = 2 * CUBE + 44;
    for (q_len, spoiled, seeing) in [(1, 0..len - window, 0..1), (len, 0..3, CUBE + 10..len)] {
        let clean = Case::new([q_len, len], [1, 2, 24], 1.0, Some(window), Some(4.0));
        let mut case = clean.clone();
        spoil(&mut case.k, len, spoiled.clone());
        spoil(&mut case.v, len, spoiled);
        let (found, expected) = (case.run(client), clean.run(client));
        let same = |found: &[f32], expected: &[f32]| {
            assert_same(found, expected, q_len, seeing.clone());
        };
        same(&found.y, &expected.y);
        same(&found.lse, &expected.lse);
        same(&found.gradients[0], &expected.gradients[0]);
    }
}

/// The same of the queries in whose windows no key of a cube is, for the gradients of its keys.
pub fn queries_past_the_window_are_not_looked_at(client: &Client) {
    let len = 2 * CUBE + 44;
    let clean = Case::new([len, len], [1, 2, 24], 1.0, Some(8), None);
    let mut case = clean.clone();
    spoil(&mut case.grad, len, len - 3..len);
    let (found, expected) = (case.run(client), clean.run(client));
    for (found, expected) in found.gradients.iter().zip(&expected.gradients).skip(1) {
        assert_same(found, expected, len, 0..2 * CUBE);
    }
}

/// A NaN that a query does see is not capped away.
pub fn a_soft_cap_passes_nan(client: &Client) {
    let mut case = Case::new([4, 4], [1, 1, 8], 1.0, None, Some(4.0));
    case.q[0] = f32::NAN;
    assert!(case.run(client).y[..8].iter().all(|y| y.is_nan()));
}

/// Tables of no angles turn nothing, and the first token of a row sees itself alone.
pub fn a_token_without_others_is_its_value(client: &Client) {
    let [batch, kv_heads, group, head_dim] = [2, 2, 3, 8];
    let tensor = |seed, shape: [usize; 4]| {
        let values = uniform(seed, shape.iter().product());
        let handle = upload_values(client, &values, F32).0;
        (TensorHandle::new_contiguous(shape, handle, F32), values)
    };
    let (q, _) = tensor(1, [batch, 1, kv_heads * group, head_dim]);
    let (k, new_keys) = tensor(2, [batch, 1, kv_heads, head_dim]);
    let (v, new_values) = tensor(3, [batch, 1, kv_heads, head_dim]);
    let [keys, values] = [4, 5].map(|seed| tensor(seed, [batch, 1, kv_heads, head_dim]).0);
    let no_angles = || {
        let handle = client.empty(0);
        [(); 2].map(|()| TensorHandle::new_contiguous([1, 0], handle.clone(), F32))
    };
    let operands = CachedOperands {
        q,
        k,
        v,
        angles: Some(Angles {
            query: no_angles(),
            key: no_angles(),
        }),
        keys: keys.clone(),
        values: values.clone(),
        len: 0,
        starts: None,
        config: AttentionConfig {
            scale: 1.0,
            window: None,
            softcap: None,
        },
    };
    let y = attention::forward_cached(client, operands).unwrap();
    let y: Vec<f32> = read_values(client, y.handle, F32);
    let of_head = new_values.chunks(head_dim);
    let expected: Vec<f32> = of_head.flat_map(|value| value.repeat(group)).collect();
    assert_eq!(y, expected);
    for (kept, expected) in [(keys, new_keys), (values, new_values)] {
        let kept: Vec<f32> = read_values(client, kept.handle, F32);
        assert_eq!(kept, expected);
    }
}
