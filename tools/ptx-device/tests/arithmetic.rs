//! Integers and floating-point numbers.

use crate::support::{of_types, one};

fn signed(value: i32) -> u64 {
    value.cast_unsigned().into()
}

fn float(value: f32) -> u64 {
    value.to_bits().into()
}

#[test]
fn integers_wrap() {
    assert_eq!(
        one("add.s32 %result, %a, %b", "s32", &[signed(i32::MAX), 1]),
        signed(i32::MIN)
    );
    assert_eq!(
        one("add.sat.s32 %result, %a, %b", "s32", &[signed(i32::MAX), 1]),
        signed(i32::MAX)
    );
    assert_eq!(
        one("sub.u32 %result, %a, %b", "u32", &[1, 2]),
        u64::from(u32::MAX)
    );
    assert_eq!(
        one("mul.lo.u64 %result, %a, %b", "u64", &[u64::MAX, 3]),
        u64::MAX.wrapping_mul(3)
    );
    assert_eq!(
        one("mul.hi.u64 %result, %a, %b", "u64", &[u64::MAX, u64::MAX]),
        u64::MAX - 1
    );
    assert_eq!(
        one("mul.hi.s32 %result, %a, %b", "s32", &[signed(-2), 5]),
        signed(-1)
    );
    assert_eq!(
        one("abs.s32 %result, %a", "s32", &[signed(i32::MIN)]),
        signed(i32::MIN)
    );
    assert_eq!(
        one("sad.s32 %result, %a, %b, %c", "s32", &[signed(-3), 4, 10]),
        17
    );
}

#[test]
fn products_are_wide() {
    let wide = |ty: &str, a: u64, b: u64| {
        of_types(
            &format!("mul.wide.{ty} %result, %a, %b"),
            "u64",
            &[ty, ty],
            &[a, b],
        )
    };
    assert_eq!(wide("s32", signed(-3), 7), (-21i64).cast_unsigned());
    assert_eq!(
        wide("u32", u32::MAX.into(), u32::MAX.into()),
        u64::from(u32::MAX) * u64::from(u32::MAX)
    );
    let sum = of_types(
        "mad.wide.s16 %result, %a, %b, %c",
        "s32",
        &["s16", "s16", "s32"],
        &[0xffff, 9, 4],
    );
    assert_eq!(sum, signed(-5));
    assert_eq!(
        one(
            "mad.hi.u32 %result, %a, %b, %c",
            "u32",
            &[u32::MAX.into(), 4, 10]
        ),
        13
    );
}

#[test]
fn quotients_go_towards_zero() {
    assert_eq!(
        one("div.s32 %result, %a, %b", "s32", &[signed(-7), 2]),
        signed(-3)
    );
    assert_eq!(
        one("rem.s32 %result, %a, %b", "s32", &[signed(-7), 2]),
        signed(-1)
    );
    assert_eq!(one("div.u32 %result, %a, %b", "u32", &[7, 2]), 3);
}

#[test]
fn lesser_and_greater_know_signs() {
    assert_eq!(
        one("min.s32 %result, %a, %b", "s32", &[signed(-1), 1]),
        signed(-1)
    );
    assert_eq!(
        one("min.u32 %result, %a, %b", "u32", &[u32::MAX.into(), 1]),
        1
    );
    assert_eq!(one("max.s16 %result, %a, %b", "s16", &[0x8000, 1]), 1);
}

#[test]
fn bytes_are_multiplied_and_summed() {
    let words = [0x0102_03ff, 0x0101_0102, 5];
    assert_eq!(one("dp4a.s32.s32 %result, %a, %b, %c", "s32", &words), 9);
    assert_eq!(
        one("dp4a.u32.u32 %result, %a, %b, %c", "u32", &words),
        5 + 1 + 2 + 3 + 2 * 255
    );
}

/// A sum of 64 bits by its halves.
#[test]
fn carries_go_on() {
    let body = "
        ld.global.v2.u32 {%r0, %r1}, [%in];
        ld.global.v2.u32 {%r2, %r3}, [%in + 8];
        add.cc.u32 %r4, %r0, %r2;
        addc.u32 %r5, %r1, %r3;
        sub.cc.u32 %r6, %r0, %r2;
        subc.u32 %r7, %r1, %r3;
        mad.lo.cc.u32 %r8, %r0, %r2, 0;
        madc.hi.u32 %r9, %r0, %r2, 0;
        st.global.v2.u32 [%out], {%r4, %r5};
        st.global.v2.u32 [%out + 8], {%r6, %r7};
        st.global.v2.u32 [%out + 16], {%r8, %r9};";
    let [a, b] = [0x1234_5678_9abc_def0u64, 0x0fed_cba9_f765_4321];
    let ran = crate::support::run(body, &[[a, b, 0, 0, 0, 0, 0, 0]]).expect("it should run");
    let low = |word: u64| word & 0xffff_ffff;
    let expected = [a.wrapping_add(b), a.wrapping_sub(b), low(a) * low(b)];
    assert_eq!(ran.words[0][..3], expected);
}

#[test]
fn sums_of_floats_round_as_they_say() {
    // 1 and half an ulp of it: a tie for nearest.
    let operands = [float(1.0), float(f32::EPSILON / 2.0)];
    let sum = |mode: &str| one(&format!("add.{mode}.f32 %result, %a, %b"), "f32", &operands);
    assert_eq!(sum("rn"), float(1.0));
    assert_eq!(sum("rz"), float(1.0));
    assert_eq!(sum("rm"), float(1.0));
    assert_eq!(sum("rp"), float(1.0 + f32::EPSILON));
    let operands = [float(-1.0), float(-f32::EPSILON / 2.0)];
    assert_eq!(
        one("add.rm.f32 %result, %a, %b", "f32", &operands),
        float(-1.0 - f32::EPSILON)
    );
    // What a sum in double precision would lose: 1 + 2^-80.
    let tiny = [float(1.0), float(2f32.powi(-80))];
    assert_eq!(
        one("add.rp.f32 %result, %a, %b", "f32", &tiny),
        float(1.0 + f32::EPSILON)
    );
}

#[test]
fn fused_sums_round_once() {
    let (a, less) = (1.0 + f32::EPSILON, -1.0 - 2.0 * f32::EPSILON);
    let fused = one(
        "fma.rn.f32 %result, %a, %b, %c",
        "f32",
        &[float(a), float(a), float(less)],
    );
    assert_eq!(fused, float(f32::EPSILON * f32::EPSILON));
    assert_eq!(a * a + less, 0.0);
    // The same in half precision, where the product needs 22 bits.
    let half = half::f16::from_f32(1.000_976_6);
    let fused = one(
        "fma.rn.f16 %result, %a, %b, %c",
        "f16",
        &[half.to_bits().into(), half.to_bits().into(), 0xbc00],
    );
    let exact = half.to_f64() * half.to_f64() - 1.0;
    assert_eq!(
        half::f16::from_bits(fused as u16).to_f64(),
        half::f16::from_f64(exact).to_f64()
    );
    // Down, as exp of NVIDIA's library asks for it.
    let down = one(
        "fma.rm.f32 %result, %a, %b, %c",
        "f32",
        &[float(0.7), float(252.0), float(12_582_913.0)],
    );
    assert_eq!(down, float(12_582_913.0 + 176.0));
}

#[test]
fn modifiers_of_floats() {
    assert_eq!(
        one(
            "add.sat.f32 %result, %a, %b",
            "f32",
            &[float(2.0), float(1.0)]
        ),
        float(1.0)
    );
    assert_eq!(
        one(
            "mul.ftz.f32 %result, %a, %b",
            "f32",
            &[float(1e-20), float(1e-20)]
        ),
        float(0.0)
    );
    assert_eq!(
        one("mul.ftz.f32 %result, %a, %b", "f32", &[1, float(1e30)]),
        float(0.0)
    );
    assert_eq!(
        one(
            "fma.rn.relu.f16 %result, %a, %b, %c",
            "f16",
            &[0xbc00, 0x3c00, 0]
        ),
        0
    );
    assert_eq!(
        one("neg.f32 %result, %a", "f32", &[float(0.0)]),
        float(-0.0)
    );
    assert_eq!(
        one(
            "copysign.f32 %result, %a, %b",
            "f32",
            &[float(-1.0), float(3.0)]
        ),
        float(-3.0)
    );
}

#[test]
fn lesser_and_greater_know_nan_and_zeros() {
    let nan = float(f32::NAN);
    assert_eq!(
        one("min.f32 %result, %a, %b", "f32", &[nan, float(1.0)]),
        float(1.0)
    );
    assert!(
        f32::from_bits(one("min.NaN.f32 %result, %a, %b", "f32", &[nan, float(1.0)]) as u32)
            .is_nan()
    );
    assert_eq!(
        one("max.f32 %result, %a, %b", "f32", &[float(-0.0), float(0.0)]),
        float(0.0)
    );
    assert_eq!(
        one("min.f32 %result, %a, %b", "f32", &[float(0.0), float(-0.0)]),
        float(-0.0)
    );
    let three = [float(1.0), float(3.0), float(2.0)];
    assert_eq!(
        one("max.f32 %result, %a, %b, %c", "f32", &three),
        float(3.0)
    );
}

#[test]
fn halves_are_summed_in_single_precision() {
    let half = |value: f32| u64::from(half::f16::from_f32(value).to_bits());
    let types = ["f16", "f16", "f32"];
    let operands = [half(3.0), half(0.1), float(1e-3)];
    let expected = half::f16::from_f32(0.1).to_f32().mul_add(3.0, 1e-3);
    let found = of_types(
        "fma.rn.f32.f16 %result, %a, %b, %c",
        "f32",
        &types,
        &operands,
    );
    assert_eq!(found, float(expected));
    let found = of_types(
        "add.f32.bf16 %result, %a, %b",
        "f32",
        &["bf16", "f32"],
        &[0x3f80, float(0.1)],
    );
    assert_eq!(found, float(1.1));
}

#[test]
fn pairs_of_halves() {
    let pair = |low: f32, high: f32| {
        u64::from(half::bf16::from_f32(low).to_bits())
            | u64::from(half::bf16::from_f32(high).to_bits()) << 16
    };
    let sum = one(
        "add.rn.bf16x2 %result, %a, %b",
        "bf16x2",
        &[pair(1.0, 2.0), pair(0.5, -4.0)],
    );
    assert_eq!(sum, pair(1.5, -2.0));
}

#[test]
fn functions_are_near_their_values() {
    for (name, function) in [
        ("ex2.approx", f32::exp2 as fn(f32) -> f32),
        ("lg2.approx", f32::log2),
        ("sin.approx", f32::sin),
        ("cos.approx", f32::cos),
        ("sqrt.rn", f32::sqrt),
        ("rcp.rn", |x| 1.0 / x),
        ("rsqrt.approx", |x| 1.0 / x.sqrt()),
        ("tanh.approx", f32::tanh),
    ] {
        let value =
            f32::from_bits(one(&format!("{name}.f32 %result, %a"), "f32", &[float(1.75)]) as u32);
        assert!(
            (value - function(1.75)).abs() <= 2e-7 * function(1.75).abs(),
            "{name}: {value}"
        );
    }
}
