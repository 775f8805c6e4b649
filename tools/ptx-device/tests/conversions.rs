//! Changes of type.

use crate::support::of_types;

fn converted(form: &str, to: &str, from: &str, value: u64) -> u64 {
    of_types(&format!("cvt.{form} %result, %a"), to, &[from], &[value])
}

fn float(value: f32) -> u64 {
    value.to_bits().into()
}

#[test]
fn integers_are_extended_and_cut() {
    assert_eq!(
        converted("s64.s32", "s64", "s32", 0xffff_fffe),
        (-2i64).cast_unsigned()
    );
    assert_eq!(converted("u64.u32", "u64", "u32", 0xffff_fffe), 0xffff_fffe);
    assert_eq!(converted("u16.u32", "u16", "u32", 0x1_2345), 0x2345);
    // A signed result in a wider register has its sign.
    assert_eq!(converted("s8.s32", "s32", "s32", 0x80), 0xffff_ff80);
    assert_eq!(converted("sat.s8.s32", "s32", "s32", 300), 127);
    assert_eq!(
        converted("sat.u8.s32", "u32", "s32", (-5i32).cast_unsigned().into()),
        0
    );
}

#[test]
fn floats_become_integers() {
    for (mode, expected) in [("rni", -2), ("rzi", -1), ("rmi", -2), ("rpi", -1)] {
        let found = converted(&format!("{mode}.s32.f32"), "s32", "f32", float(-1.5));
        assert_eq!(found, u64::from(i32::cast_unsigned(expected)), "{mode}");
    }
    assert_eq!(converted("rzi.u32.f32", "u32", "f32", float(-3.0)), 0);
    assert_eq!(
        converted("rzi.s32.f32", "s32", "f32", float(1e20)),
        i32::MAX as u64
    );
    assert_eq!(converted("rzi.s32.f32", "s32", "f32", float(f32::NAN)), 0);
    assert_eq!(
        converted("rmi.f32.f32", "f32", "f32", float(-1.5)),
        float(-2.0)
    );
}

#[test]
fn integers_become_floats() {
    assert_eq!(
        converted("rn.f32.s32", "f32", "s32", (-7i32).cast_unsigned().into()),
        float(-7.0)
    );
    // A tie that the 64th bit decides.
    let above_a_tie = (1u64 << 40) + (1 << 16) + 1;
    assert_eq!(
        converted("rn.f32.u64", "f32", "u64", above_a_tie),
        float(above_a_tie as f32)
    );
    assert_eq!(
        converted("rn.bf16.s32", "bf16", "s32", 257),
        u64::from(half::bf16::from_f32(256.0).to_bits())
    );
}

/// Every half-precision number is what it rounds to, and what lies between two rounds to one of them.
#[test]
fn floats_become_halves() {
    let half =
        |mode: &str, value: f32| converted(&format!("{mode}.f16.f32"), "f16", "f32", float(value));
    assert_eq!(half("rn", 65504.0), 0x7bff);
    assert_eq!(half("rn", 65520.0), 0x7c00);
    assert_eq!(half("rz", 65530.0), 0x7bff);
    assert_eq!(half("rn", 2f32.powi(-25)), 0);
    assert_eq!(half("rn", 1.5 * 2f32.powi(-25)), 1);
    // Just above a tie: bits that a conversion by cutting would lose.
    assert_eq!(half("rn", f32::from_bits(0x3f80_1001)), 0x3c01);
    assert_eq!(half("rn", f32::from_bits(0x3f80_1000)), 0x3c00);
    let brain =
        |mode: &str, bits: u32| converted(&format!("{mode}.bf16.f32"), "bf16", "f32", bits.into());
    assert_eq!(brain("rn", 0x3f80_8000), 0x3f80);
    assert_eq!(brain("rn", 0x3f80_8001), 0x3f81);
    assert_eq!(brain("rz", 0x3f80_ffff), 0x3f80);
    assert_eq!(converted("rn.relu.f16.f32", "f16", "f32", float(-2.0)), 0);
    for bits in 0..=0xffffu16 {
        let value = half::f16::from_bits(bits);
        if !value.is_nan() && bits % 251 == 0 {
            assert_eq!(half("rn", value.to_f32()), u64::from(bits));
        }
    }
}

#[test]
fn two_floats_become_a_pair() {
    let pair = of_types(
        "cvt.rn.f16x2.f32 %result, %a, %b",
        "b32",
        &["f32", "f32"],
        &[float(2.0), float(1.0)],
    );
    // The first operand is the upper half.
    assert_eq!(pair, 0x4000_3c00);
    let pair = of_types(
        "cvt.rn.bf16x2.f32 %result, %a, %b",
        "b32",
        &["f32", "f32"],
        &[float(2.0), float(1.0)],
    );
    assert_eq!(pair, 0x4000_3f80);
}

#[test]
fn tensor_floats_keep_ten_bits() {
    assert_eq!(
        converted("rna.tf32.f32", "b32", "f32", 0x3f80_1000),
        0x3f80_2000
    );
    assert_eq!(
        converted("rna.tf32.f32", "b32", "f32", 0x3f80_0fff),
        0x3f80_0000
    );
}
