//! Products of small matrices against sums of products, in the layouts that the ISA's figures show.

use crate::support::{SLOTS, run};
use half::{bf16, f16};

/// A number that half precision has, different for every place.
fn value(row: usize, column: usize) -> f32 {
    ((row * 7 + column * 3) % 23) as f32 / 8.0 - 1.0
}

/// Runs a product with fragments that `a`, `b` fill by lane, and returns the sum's four numbers of each lane.
fn product(
    instruction: &str,
    a: &dyn Fn(usize) -> Vec<u32>,
    b: &dyn Fn(usize) -> Vec<u32>,
) -> Vec<[f32; 4]> {
    let (left, right) = (a(0).len(), b(0).len());
    let names = |first: usize, count: usize| {
        (first..first + count)
            .map(|at| format!("%r{at}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let loads: String = (0..left + right)
        .map(|at| format!("ld.global.u32 %r{at}, [%in + {}];\n", 4 * at))
        .collect();
    let body = format!(
        "{loads}
         mov.f32 %f0, 0f3F000000; mov.f32 %f1, 0f3F000000; mov.f32 %f2, 0f3F000000; mov.f32 %f3, 0f3F000000;
         {instruction} {{%f4, %f5, %f6, %f7}}, {{{}}}, {{{}}}, {{%f0, %f1, %f2, %f3}};
         st.global.v4.f32 [%out], {{%f4, %f5, %f6, %f7}};",
        names(0, left),
        names(left, right)
    );
    let inputs: Vec<[u64; SLOTS]> = (0..32)
        .map(|lane| {
            let words: Vec<u32> = a(lane).into_iter().chain(b(lane)).collect();
            let word = |at: usize| u64::from(words.get(at).copied().unwrap_or(0));
            std::array::from_fn(|slot| word(2 * slot) | word(2 * slot + 1) << 32)
        })
        .collect();
    let ran = run(&body, &inputs).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(ran.outcome.counters.matrix_products, 1);
    let float = |bits: u64| f32::from_bits(bits as u32);
    ran.words
        .iter()
        .map(|words| {
            [
                float(words[0]),
                float(words[0] >> 32),
                float(words[1]),
                float(words[1] >> 32),
            ]
        })
        .collect()
}

/// Holds the sum's fragment against sums of products over `inner`.
fn check(found: &[[f32; 4]], inner: usize) {
    for (lane, sums) in found.iter().enumerate() {
        for (at, sum) in sums.iter().enumerate() {
            let (row, column) = (lane / 4 + 8 * (at / 2), lane % 4 * 2 + at % 2);
            // B is taken from the same numbers, with its rows counted from 100 on.
            let expected = (0..inner)
                .map(|k| value(row, k) * value(100 + k, column))
                .sum::<f32>()
                + 0.5;
            assert!(
                (sum - expected).abs() < 1e-4,
                "lane {lane}, {at}: {sum} for {expected}"
            );
        }
    }
}

fn pair(convert: &dyn Fn(f32) -> u16, first: f32, second: f32) -> u32 {
    u32::from(convert(first)) | u32::from(convert(second)) << 16
}

#[test]
fn halves_are_multiplied() {
    let brain: &dyn Fn(f32) -> u16 = &|value| bf16::from_f32(value).to_bits();
    let half: &dyn Fn(f32) -> u16 = &|value| f16::from_f32(value).to_bits();
    for (name, convert) in [("f16", half), ("bf16", brain)] {
        for inner in [8, 16] {
            let a = |lane: usize| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let at = |row: usize, column: usize| {
                    pair(convert, value(row, column), value(row, column + 1))
                };
                let all = [
                    at(row, column),
                    at(row + 8, column),
                    at(row, column + 8),
                    at(row + 8, column + 8),
                ];
                all[..inner / 4].to_vec()
            };
            let b = |lane: usize| {
                let (row, column) = (100 + lane % 4 * 2, lane / 4);
                let at = |row: usize| pair(convert, value(row, column), value(row + 1, column));
                [at(row), at(row + 8)][..inner / 8].to_vec()
            };
            let instruction =
                format!("mma.sync.aligned.m16n8k{inner}.row.col.f32.{name}.{name}.f32");
            check(&product(&instruction, &a, &b), inner);
        }
    }
}

#[test]
fn tensor_floats_are_multiplied() {
    let a = |lane: usize| {
        let (row, column) = (lane / 4, lane % 4);
        [
            (row, column),
            (row + 8, column),
            (row, column + 4),
            (row + 8, column + 4),
        ]
        .map(|(row, column)| value(row, column).to_bits())
        .to_vec()
    };
    let b = |lane: usize| {
        [0, 4]
            .map(|more| value(100 + lane % 4 + more, lane / 4).to_bits())
            .to_vec()
    };
    check(
        &product("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", &a, &b),
        8,
    );
}

/// Lane `l`'s two words of row `l` of a matrix of 8 by 8 halves, moved to shared memory and from there by `instruction`.
fn moved(instruction: &str) -> Vec<[u16; 4]> {
    let body = format!(
        "mov.u32 %r20, block;
         ld.global.v4.u32 {{%r0, %r1, %r2, %r3}}, [%in];
         and.b32 %r4, %thread, 15;
         mad.lo.u32 %r21, %r4, 16, %r20;
         setp.lt.u32 %p0, %thread, 16;
         @%p0 st.shared.v4.u32 [%r21], {{%r0, %r1, %r2, %r3}};
         bar.sync 0;
         {instruction}
         st.global.v2.u32 [%out], {{%r10, %r11}};"
    );
    // Element `8 * row + column` of matrix `m` is 100 m + that.
    let element = |row: usize, column: usize| (100 * (row / 8) + row % 8 * 8 + column) as u64;
    let inputs: Vec<[u64; SLOTS]> = (0..32)
        .map(|row| {
            let word = |at: usize| {
                (0..4).fold(0, |word, part| {
                    word | element(row % 16, 4 * at + part) << (16 * part)
                })
            };
            std::array::from_fn(|slot| if slot < 2 { word(slot) } else { 0 })
        })
        .collect();
    let ran = run(&body, &inputs).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(
        ran.outcome.findings.is_empty(),
        "{:?}",
        ran.outcome.findings
    );
    ran.words
        .iter()
        .map(|words| std::array::from_fn(|at| (words[0] >> (16 * at)) as u16))
        .collect()
}

#[test]
fn matrices_are_loaded() {
    for (lane, found) in moved("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r10, %r11}, [%r21];")
        .iter()
        .enumerate()
    {
        let first = (lane / 4 * 8 + lane % 4 * 2) as u16;
        assert_eq!(
            *found,
            [first, first + 1, 100 + first, 101 + first],
            "lane {lane}"
        );
    }
    for (lane, found) in
        moved("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r10, %r11}, [%r21];")
            .iter()
            .enumerate()
    {
        let first = (lane % 4 * 2 * 8 + lane / 4) as u16;
        assert_eq!(
            *found,
            [first, first + 8, 100 + first, 108 + first],
            "lane {lane}"
        );
    }
}

/// What is stored and loaded by the same layout comes back; what is stored transposed comes back turned.
#[test]
fn matrices_are_stored() {
    let there_and_back = |store: &str, load: &str| {
        moved(&format!(
            "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{%r12, %r13}}, [%r21];
             bar.sync 0;
             stmatrix.sync.aligned.m8n8.x2{store}.shared.b16 [%r21 + 1024], {{%r12, %r13}};
             bar.sync 0;
             ldmatrix.sync.aligned.m8n8.x2{load}.shared.b16 {{%r10, %r11}}, [%r21 + 1024];"
        ))
    };
    let straight = moved("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r10, %r11}, [%r21];");
    let turned = moved("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r10, %r11}, [%r21];");
    assert_eq!(there_and_back("", ""), straight);
    assert_eq!(there_and_back(".trans", ".trans"), straight);
    assert_eq!(there_and_back(".trans", ""), turned);
}

/// A product of 16 by 16 matrices of ones, each fragment loaded from memory and the sum stored there.
#[test]
fn fragments_of_their_own_layout() {
    let body = "
        mov.u32 %r20, block;
        mad.lo.u32 %r21, %thread, 32, %r20;
        mov.u32 %r0, 0x3c003c00;
        st.shared.v4.u32 [%r21], {%r0, %r0, %r0, %r0};
        st.shared.v4.u32 [%r21 + 16], {%r0, %r0, %r0, %r0};
        bar.sync 0;
        mov.f32 %f0, 0f3F800000;
        wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%r20], 16;
        wmma.load.b.sync.aligned.col.m16n16k16.shared.f16 {%r9, %r10, %r11, %r12, %r13, %r14, %r15, %r16}, [%r20], 16;
        wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%f1, %f2, %f3, %f4, %f5, %f6, %f7, %f8},
            {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, {%r9, %r10, %r11, %r12, %r13, %r14, %r15, %r16},
            {%f0, %f0, %f0, %f0, %f0, %f0, %f0, %f0};
        wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [%r20 + 1024], {%f1, %f2, %f3, %f4, %f5, %f6, %f7, %f8}, 16;
        bar.sync 0;
        ld.shared.f32 %f9, [%r21 + 1024];
        st.global.f32 [%out], %f9;";
    let ran = run(body, &[[0; SLOTS]; 32]).unwrap_or_else(|fault| panic!("{fault}"));
    for words in ran.words {
        assert_eq!(f32::from_bits(words[0] as u32), 17.0);
    }
}
