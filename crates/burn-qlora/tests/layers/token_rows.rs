//! Rows of tokens against a matrix that is trained whole.

use crate::support::assert_close;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_fused::{IGNORED, LogitsConfig};
use burn_qlora::TokenRows;
use qlora_test_support::random::uniform;
use qlora_test_support::{tensor, values};

const VOCAB: usize = 30;
const WIDTH: usize = 8;
/// A run of two and two alone, not in order.
const IDS: [u32; 4] = [4, 5, 29, 0];

fn table(device: &Device) -> Tensor<2> {
    tensor(uniform(1, VOCAB * WIDTH), [VOCAB, WIDTH], device)
}

/// Rows that a table has in their places, and the table.
fn trained(device: &Device) -> (TokenRows, Tensor<2>) {
    let rows = tensor(uniform(2, IDS.len() * WIDTH), [IDS.len(), WIDTH], device);
    let rows = TokenRows::new(&IDS, rows);
    let table = rows.put_into(table(device));
    (rows, table)
}

/// Tokens and targets: every row, some of them often, and three that are not asked.
fn ids(device: &Device) -> [Tensor<2, Int>; 2] {
    let ids: Vec<i64> = (0..40).map(|i| i * i % VOCAB as i64).collect();
    let mut targets: Vec<i64> = (0..40).map(|i| (7 * i + 4) % VOCAB as i64).collect();
    targets[3..6].fill(IGNORED);
    [ids, targets].map(|ids| Tensor::from_data(TensorData::new(ids, [2, 20]), device))
}

fn picked(table: Tensor<2>) -> Tensor<2> {
    let rows = IDS.map(|id| {
        let id = id as usize;
        table.clone().slice([id..id + 1, 0..WIDTH])
    });
    Tensor::cat(rows.to_vec(), 0)
}

pub fn they_take_their_places_and_no_others(device: &Device) {
    let (rows, found) = trained(device);
    assert_close(picked(found.clone()), rows.rows.val());
    let (before, after) = (values(table(device)), values(found));
    for id in 0..VOCAB {
        let row = id * WIDTH..(id + 1) * WIDTH;
        let same = before[row.clone()] == after[row];
        assert_eq!(same, !IDS.contains(&(id as u32)), "row {id}");
    }
    if device.supports_dtype(DType::F16) {
        let half = rows.put_into(table(device).cast(DType::F16));
        assert_eq!(half.dtype(), DType::F16);
        let expected = rows.rows.val().cast(DType::F16).cast(DType::F32);
        assert_close(picked(half).cast(DType::F32), expected);
    }
}

pub fn a_lookup_gives_the_gradient_of_its_rows(device: &Device) {
    let (rows, table) = trained(device);
    let [ids, _] = ids(device);
    let weights: Tensor<3> = tensor(uniform(3, 40 * WIDTH), [2, 20, WIDTH], device);
    let look_up = |table: Tensor<2>| {
        let rows = table.select(0, ids.clone().reshape([40]));
        rows.reshape([2, 20, WIDTH])
    };
    let whole = table.clone().detach().require_grad();
    let expected = (look_up(whole.clone()).square() * weights.clone()).sum();
    let expected = whole.grad(&expected.backward()).unwrap();

    let x = look_up(table.clone());
    let found = rows.with_lookup_gradient(x.clone(), ids.clone());
    assert_eq!(values(found.clone()), values(x));
    let tape = (found.square() * weights).sum().backward();
    let found = rows.rows.val().grad(&tape).unwrap();
    assert_close(found, picked(expected.clone()));
}

pub fn losses_give_the_gradients_of_their_rows(device: &Device) {
    let (rows, table) = trained(device);
    let [_, targets] = ids(device);
    let targets = targets.reshape([40]);
    let weights: Tensor<1> = tensor(uniform(5, 40), [40], device);
    for logits in [
        LogitsConfig::default(),
        LogitsConfig::default()
            .with_scale(0.4)
            .with_softcap(Some(1.5)),
    ] {
        // Logits are up to 10, and the cap bends most of them.
        let hidden: Tensor<2> = tensor(uniform(4, 40 * WIDTH), [40, WIDTH], device);
        let hidden = hidden.mul_scalar(3.0);
        let losses = |hidden: Tensor<2>, table: Tensor<2>| {
            burn_fused::token_cross_entropy(hidden, table, targets.clone(), logits)
        };
        let (own, whole) = (
            hidden.clone().require_grad(),
            table.clone().detach().require_grad(),
        );
        let tape = (losses(own.clone(), whole.clone()) * weights.clone())
            .sum()
            .backward();
        let expected = [own.grad(&tape).unwrap(), picked(whole.grad(&tape).unwrap())];

        let own = hidden.require_grad();
        let plain = losses(own.clone(), table.clone());
        let found = rows.with_loss_gradient(
            plain.clone(),
            own.clone(),
            table.clone(),
            targets.clone(),
            logits,
        );
        assert_eq!(values(found.clone()), values(plain));
        let tape = (found * weights.clone()).sum().backward();
        let found = [own.grad(&tape), rows.rows.val().grad(&tape)];
        for (found, expected) in found.into_iter().zip(expected) {
            assert_close(found.unwrap(), expected);
        }
    }
}

pub fn rows_that_are_not_trained_cost_nothing(device: &Device) {
    let plain = device.clone().without_autodiff();
    let (rows, table) = trained(&plain);
    let [ids, targets] = ids(&plain);
    let x = table.clone().select(0, ids.clone().reshape([40]));
    let x = x.reshape([2, 20, WIDTH]);
    let found = rows.with_lookup_gradient(x.clone(), ids);
    assert_eq!(values(found), values(x.clone()));
    let (hidden, targets) = (x.reshape([40, WIDTH]), targets.reshape([40]));
    let logits = LogitsConfig::default();
    let losses =
        burn_fused::token_cross_entropy(hidden.clone(), table.clone(), targets.clone(), logits);
    let found = rows.with_loss_gradient(losses.clone(), hidden, table, targets, logits);
    assert_eq!(values(found), values(losses));
}
