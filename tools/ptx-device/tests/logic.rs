//! Bits, fields and bytes.

use crate::support::{of_types, one};

#[test]
fn bits_are_joined() {
    let operands = [0b1100, 0b1010];
    assert_eq!(one("and.b32 %result, %a, %b", "b32", &operands), 0b1000);
    assert_eq!(one("or.b32 %result, %a, %b", "b32", &operands), 0b1110);
    assert_eq!(one("xor.b32 %result, %a, %b", "b32", &operands), 0b0110);
    assert_eq!(one("not.b16 %result, %a", "b16", &[0b1100]), 0xfff3);
    assert_eq!(one("cnot.b32 %result, %a", "b32", &[0]), 1);
}

/// The table of a function is what it makes of 0xF0, 0xCC and 0xAA (PTX ISA, `lop3`).
#[test]
fn any_function_of_three_bits() {
    for table in 0..=255u64 {
        let found = one(
            &format!("lop3.b32 %result, %a, %b, %c, {table}"),
            "b32",
            &[0xf0, 0xcc, 0xaa],
        );
        assert_eq!(found & 0xff, table);
    }
}

#[test]
fn shifts_beyond_the_width() {
    let shift = |instruction: &str, ty: &str, value: u64, by: u64| {
        of_types(
            &format!("{instruction} %result, %a, %b"),
            ty,
            &[ty, "u32"],
            &[value, by],
        )
    };
    assert_eq!(shift("shl.b32", "b32", 1, 31), 1 << 31);
    assert_eq!(shift("shl.b32", "b32", 1, 32), 0);
    assert_eq!(shift("shr.u32", "u32", 0x8000_0000, 40), 0);
    assert_eq!(shift("shr.s32", "s32", 0x8000_0000, 40), 0xffff_ffff);
    assert_eq!(shift("shr.s64", "s64", 1 << 63, 63), u64::MAX);
    assert_eq!(shift("shr.u16", "u16", 0x8000, 15), 1);
}

#[test]
fn funnels_take_words_out_of_two() {
    let funnel = |form: &str, by: u64| {
        one(
            &format!("shf.{form}.b32 %result, %a, %b, %c"),
            "b32",
            &[0x89ab_cdef, 0x0123_4567, by],
        )
    };
    assert_eq!(funnel("l.wrap", 8), 0x2345_6789);
    assert_eq!(funnel("r.wrap", 8), 0x6789_abcd);
    assert_eq!(funnel("l.clamp", 40), 0x89ab_cdef);
    assert_eq!(funnel("r.clamp", 40), 0x0123_4567);
    assert_eq!(funnel("r.wrap", 40), 0x6789_abcd);
}

#[test]
fn bytes_are_chosen() {
    let permuted = |selection: u64| {
        one(
            "prmt.b32 %result, %a, %b, %c",
            "b32",
            &[0x3322_1180, 0x7766_5544, selection],
        )
    };
    assert_eq!(permuted(0x7531), 0x7755_3311);
    assert_eq!(permuted(0x0000), 0x8080_8080);
    // With the highest bit of the selector, the byte's sign.
    assert_eq!(permuted(0x0008), 0x8080_80ff);
}

/// The loop of the ISA's text, bit by bit.
fn extracted(value: u32, position: u32, length: u32, signed: bool) -> u32 {
    let sign = signed && length > 0 && value >> (position + length - 1).min(31) & 1 == 1;
    (0..32).fold(0, |found, bit| {
        let inside = bit < length && position + bit <= 31;
        let there = if inside {
            value >> (position + bit) & 1 == 1
        } else {
            sign
        };
        found | u32::from(there) << bit
    })
}

#[test]
fn fields_are_taken_and_set() {
    let value = 0x9abc_def1u32;
    for position in [0, 1, 5, 30, 31, 32, 40] {
        for length in [0, 1, 4, 28, 31, 32, 40] {
            for (ty, signed) in [("u32", false), ("s32", true)] {
                let found = one(
                    &format!("bfe.{ty} %result, %a, %b, %c"),
                    ty,
                    &[value.into(), position.into(), length.into()],
                );
                let expected = extracted(value, position, length, signed);
                assert_eq!(found, u64::from(expected), "{ty} {position} {length}");
            }
        }
    }
    let set = |position: u64, length: u64| {
        one(
            "bfi.b32 %result, %a, %b, %c, %e",
            "b32",
            &[0xff, 0x1111_1111, position, length],
        )
    };
    assert_eq!(set(8, 8), 0x1111_ff11);
    assert_eq!(set(28, 8), 0xf111_1111);
    assert_eq!(set(32, 8), 0x1111_1111);
    assert_eq!(set(4, 0), 0x1111_1111);
}

#[test]
fn bits_are_counted() {
    let count = |instruction: &str, ty: &str, value: u64| {
        of_types(
            &format!("{instruction} %result, %a"),
            "u32",
            &[ty],
            &[value],
        )
    };
    assert_eq!(count("popc.b64", "b64", u64::MAX), 64);
    assert_eq!(count("clz.b32", "b32", 1), 31);
    assert_eq!(count("clz.b32", "b32", 0), 32);
    assert_eq!(count("brev.b32", "b32", 1), 1 << 31);
    assert_eq!(count("bfind.u32", "u32", 0x10), 4);
    assert_eq!(count("bfind.s32", "s32", 0xffff_fffe), 0);
    assert_eq!(count("bfind.u32", "u32", 0), 0xffff_ffff);
    assert_eq!(count("bfind.shiftamt.u32", "u32", 0x10), 27);
}

#[test]
fn comparisons_know_nan_and_signs() {
    let holds = |relation: &str, ty: &str, a: u64, b: u64| {
        let instruction = format!("setp.{relation}.{ty} %p0, %a, %b; selp.u32 %result, 1, 0, %p0");
        of_types(&instruction, "u32", &[ty, ty], &[a, b]) == 1
    };
    let nan = u64::from(f32::NAN.to_bits());
    let one = u64::from(1f32.to_bits());
    assert!(holds("lt", "s32", 0xffff_ffff, 1) && !holds("lt", "u32", 0xffff_ffff, 1));
    assert!(holds("hi", "u32", 2, 1) && holds("ls", "u32", 1, 1));
    for (relation, expected) in [
        ("eq", false),
        ("ne", false),
        ("equ", true),
        ("neu", true),
        ("ltu", true),
        ("ge", false),
        ("nan", true),
        ("num", false),
    ] {
        assert_eq!(holds(relation, "f32", nan, one), expected, "{relation}");
    }
    assert!(holds("le", "f16", 0xbc00, 0x3c00));
}

#[test]
fn comparisons_are_joined_and_have_an_opposite() {
    let body = "
        ld.global.u32 %r0, [%in];
        setp.ne.u32 %p0, %r0, 0;
        setp.gt.and.u32 %p1|%p2, %r0, 5, !%p0;
        setp.gt.or.u32 %p3|%p4, %r0, 5, %p0;
        selp.u32 %r1, 1, 0, %p1;
        selp.u32 %r2, 1, 0, %p2;
        selp.u32 %r3, 1, 0, %p3;
        selp.u32 %r4, 1, 0, %p4;
        st.global.v4.u32 [%out], {%r1, %r2, %r3, %r4};";
    let outcome = |value: u64| {
        let ran =
            crate::support::run(body, &[[value, 0, 0, 0, 0, 0, 0, 0]]).expect("it should run");
        let [low, high] = [ran.words[0][0], ran.words[0][1]];
        [low & 1, low >> 32, high & 1, high >> 32]
    };
    assert_eq!(outcome(0), [0, 1, 0, 1]);
    assert_eq!(outcome(9), [0, 0, 1, 1]);
}
