//! The update of AdamW against the reference's.

use cubecl::client::Client;
use cubecl::prelude::*;
use nf4::adamw::{self, AdamW, BLOCK, BLOCK_BYTES, CODES_2, SCALE_1, SCALE_2};
use qlora_cubecl::adamw::{Run, dynamic_maps, update_dynamic8, update_f32};

use qlora_test_support::random::uniform;

use crate::support::{F32, assert_close, read, read_values, tolerance, upload_values};

const ADAMW: AdamW = AdamW {
    beta_1: 0.9,
    beta_2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
};

/// Words of the page before the run, which hold another parameter's state.
const OFFSET: usize = 32;

/// Elements of the parameter before the run.
const FIRST: usize = 3;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Runs of whole launches, of less, and of a single element, in the middle of a page and of a parameter.
pub fn f32_moments_match_the_reference(client: &Client) {
    for elements in [1, 255, 1000] {
        let len = FIRST + elements;
        let half = elements.next_multiple_of(16);
        let (mut param, grad) = (uniform(1, len), uniform(2, len));
        let mut page = uniform(3, OFFSET + 2 * half);
        let (mut m, mut v) = (vec![0.0; elements], vec![0.0; elements]);
        m.copy_from_slice(&page[OFFSET..][..elements]);
        for v in &mut page[OFFSET + half..] {
            *v = v.abs();
        }
        v.copy_from_slice(&page[OFFSET + half..][..elements]);

        let upload = |values: &[f32]| upload_values(client, values, F32).0;
        let handles = [&param, &grad, &vec![0.0; len]].map(|values| upload(values));
        let device_page = upload(&page);
        let run = Run {
            parameter: len,
            first: FIRST,
            elements,
            page_words: page.len(),
            offset: OFFSET,
            end: page.len(),
        };
        update_f32(
            client,
            handles.each_ref(),
            &device_page,
            run,
            ADAMW.at(3, 1e-2),
        )
        .unwrap();
        adamw::update_f32(
            &mut param[FIRST..],
            &grad[FIRST..],
            &mut m,
            &mut v,
            ADAMW.at(3, 1e-2),
        );

        let [_, _, output] = handles;
        let output = read_values(client, output, F32);
        let found = read_values(client, device_page, F32);
        let close = |found: &[f32], expected: &[f32], what: &str| {
            assert_close(
                found,
                &wide(expected),
                tolerance(F32),
                &format!("{what} of {elements}"),
            );
        };
        close(&output[FIRST..], &param[FIRST..], "parameter");
        close(&found[OFFSET..][..elements], &m, "first moment");
        close(&found[OFFSET + half..][..elements], &v, "second moment");
        assert_eq!(found[..OFFSET], page[..OFFSET], "another's state");
    }
}

/// Of a value that lies on a midpoint but for rounding the code may be the next one: the largest step between two entries
/// of either map is 0.9 / 64 of the scale.
const CODED: f64 = 0.9 / 64.0 + 1e-5;

pub fn coded_moments_match_the_reference(client: &Client) {
    for elements in [1, BLOCK, 3 * BLOCK + 13] {
        let grad = uniform(2, elements);
        let mut param = uniform(1, elements);
        let mut blocks = vec![0u8; elements.div_ceil(BLOCK) * BLOCK_BYTES];
        // Both begin the second update with the reference's moments.
        for t in 1..=2 {
            let (handle, _) = upload_values(client, &param, F32);
            let (grad_handle, _) = upload_values(client, &grad, F32);
            let output = client.empty(4 * elements);
            let page = client.create_from_slice(&blocks);
            let run = Run {
                parameter: elements,
                first: 0,
                elements,
                page_words: blocks.len() / 4,
                offset: 0,
                end: blocks.len() / 4,
            };
            let step = ADAMW.at(t, 1e-2);
            let maps = dynamic_maps(client);
            let buffers = [&handle, &grad_handle, &output];
            update_dynamic8(client, buffers, &page, &maps, run, step).unwrap();
            adamw::update_dynamic8(&mut param, &grad, &mut blocks, step);

            let what = format!("update {t} of {elements}");
            let output = read_values(client, output, F32);
            assert_close(&output, &wide(&param), tolerance(F32), &what);
            let found = read(client, page);
            let pairs = found.chunks(BLOCK_BYTES).zip(blocks.chunks(BLOCK_BYTES));
            for (index, (found, expected)) in pairs.enumerate() {
                // In a short block the codes behind the last element mean nothing.
                let len = BLOCK.min(elements - index * BLOCK);
                for (map, codes, scale) in [
                    (nf4::dynamic_map(), 0, SCALE_1),
                    (nf4::dynamic_map_unsigned(), CODES_2, SCALE_2),
                ] {
                    let scales =
                        [found, expected].map(|block| f32::from_bytes(&block[scale..scale + 4])[0]);
                    assert_close(&scales[..1], &wide(&scales[1..]), tolerance(F32), &what);
                    let decoded = |block: &[u8], scale: f32| -> Vec<f32> {
                        let codes = block[codes..codes + len].iter();
                        codes.map(|code| map[*code as usize] * scale).collect()
                    };
                    let expected = wide(&decoded(expected, scales[1]));
                    assert_close(&decoded(found, scales[0]), &expected, CODED, &what);
                }
            }
        }
    }
}
