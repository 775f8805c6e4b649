//! Loads, stores, atomic operations and addresses.

use crate::support::{SLOTS, run, warp};

fn slots(first: u64) -> [u64; SLOTS] {
    let mut slots = [0; SLOTS];
    slots[0] = first;
    slots
}

#[test]
fn loads_extend_as_their_type_says() {
    let body = |ty: &str| format!("ld.global.{ty} %r0, [%in]; st.global.u32 [%out], %r0;");
    assert_eq!(warp(&body("s8"), |_| slots(0x80))[0], 0xffff_ff80);
    assert_eq!(warp(&body("u8"), |_| slots(0x1ff))[0], 0xff);
    assert_eq!(warp(&body("s16"), |_| slots(0x8000))[0], 0xffff_8000);
}

#[test]
fn vectors_are_moved_at_once() {
    let body = "
        ld.global.v2.b64 {%rd0, %rd1}, [%in];
        st.global.v2.b64 [%out + 16], {%rd1, %rd0};
        ld.global.v4.u32 {%r0, _, %r1, _}, [%in];
        st.global.v2.u32 [%out], {%r1, %r0};";
    let mut input = [0; SLOTS];
    input[..2].copy_from_slice(&[0x1111_1111_2222_2222, 0x3333_3333_4444_4444]);
    let ran = run(body, &[input]).expect("it should run");
    assert_eq!(
        ran.words[0][..4],
        [0x2222_2222_4444_4444, 0, input[1], input[0]]
    );
}

#[test]
fn registers_are_put_together_and_cut() {
    let body = "
        ld.global.b64 %rd0, [%in];
        mov.b64 {%r0, %r1}, %rd0;
        mov.b32 {%rs0, %rs1}, %r0;
        mov.b32 %r2, {%rs1, %rs0};
        mov.b64 %rd1, {%r1, %r2};
        st.global.b64 [%out], %rd1;";
    assert_eq!(
        warp(body, |_| slots(0x0123_4567_89ab_cdef))[0],
        0xcdef_89ab_0123_4567
    );
}

/// Shared memory by its own addresses and by generic ones; a lane's own memory.
#[test]
fn spaces_have_generic_addresses() {
    let body = "
        .local .align 8 .b8 own[64];
        mov.u64 %rd0, block;
        mad.wide.u32 %rd0, %thread, 8, %rd0;
        cvta.shared.u64 %rd1, %rd0;
        ld.global.u64 %rd2, [%in];
        st.u64 [%rd1], %rd2;
        ld.shared.u64 %rd3, [%rd0];
        mov.u64 %rd4, own;
        st.local.u64 [%rd4 + 8], %rd3;
        cvta.local.u64 %rd5, %rd4;
        ld.u64 %rd6, [%rd5 + 8];
        isspacep.shared %p0, %rd1;
        isspacep.shared %p1, %rd5;
        cvta.to.shared.u64 %rd7, %rd1;
        setp.eq.and.u64 %p2, %rd7, %rd0, %p0;
        @!%p2 trap;
        @%p1 trap;
        st.global.u64 [%out], %rd6;";
    assert_eq!(warp(body, slots), std::array::from_fn(|lane| lane as u64));
}

#[test]
fn atomic_operations_are_of_all_lanes() {
    let body = "
        mov.u32 %r0, block;
        mov.u32 %r1, 0;
        setp.eq.u32 %p0, %thread, 0;
        @%p0 st.shared.u32 [%r0], %r1;
        bar.sync 0;
        atom.shared.add.u32 %r2, [%r0], 2;
        bar.sync 0;
        ld.shared.u32 %r3, [%r0];
        st.global.v2.u32 [%out], {%r3, %r2};";
    let found = warp(body, slots);
    let mut before: Vec<_> = found.iter().map(|word| word >> 32).collect();
    before.sort_unstable();
    assert_eq!(before, (0..32).map(|lane| 2 * lane).collect::<Vec<_>>());
    assert!(found.iter().all(|word| word & 0xffff_ffff == 64));
    let swap = "
        mov.f32 %f0, 0f40000000;
        ld.global.f32 %f2, [%in];
        st.global.f32 [%out], %f2;
        atom.global.add.f32 %f1, [%out], %f0;
        ld.global.u32 %r0, [%out];
        atom.global.cas.b32 %r1, [%out], %r0, 7;
        atom.global.cas.b32 %r2, [%out], %r0, 9;";
    assert_eq!(warp(swap, |_| slots(1f32.to_bits().into()))[0], 7);
}
