//! Exchange between lanes, and lanes that part.

use crate::support::warp;

/// The ISA's definition of `shfl` for one lane, without bounds.
fn shuffled(mode: &str, by: u64, bounds: u64) -> [u64; 32] {
    warp(
        &format!(
            "ld.global.u32 %r0, [%in];
             shfl.sync.{mode}.b32 %r1|%p0, %r0, {by}, {bounds}, 0xffffffff;
             selp.u32 %r2, 1, 0, %p0;
             mad.lo.u32 %r3, %r2, 1000, %r1;
             st.global.u32 [%out], %r3;"
        ),
        |lane| [lane, 0, 0, 0, 0, 0, 0, 0],
    )
}

#[test]
fn values_move_between_lanes() {
    let expected = |from: &dyn Fn(u64) -> Option<u64>| {
        std::array::from_fn::<u64, 32, _>(|lane| {
            from(lane as u64).map_or(lane as u64, |from| 1000 + from)
        })
    };
    assert_eq!(shuffled("up", 3, 0), expected(&|lane| lane.checked_sub(3)));
    assert_eq!(
        shuffled("down", 3, 31),
        expected(&|lane| (lane + 3 < 32).then_some(lane + 3))
    );
    assert_eq!(shuffled("bfly", 5, 31), expected(&|lane| Some(lane ^ 5)));
    assert_eq!(shuffled("idx", 7, 31), expected(&|_| Some(7)));
    // Segments of eight lanes: the mask's bits stay as they are in the reader's lane.
    let segments = 0x1800 | 31;
    assert_eq!(
        shuffled("idx", 2, segments),
        expected(&|lane| Some(lane & 0x18 | 2))
    );
    assert_eq!(
        shuffled("down", 3, segments),
        expected(&|lane| (lane % 8 + 3 < 8).then_some(lane + 3))
    );
}

#[test]
fn lanes_vote() {
    let vote = |question: &str, ty: &str| {
        let select = if ty == "pred" {
            "selp.u32 %r1, 1, 0, %p1;"
        } else {
            ""
        };
        let to = if ty == "pred" { "%p1" } else { "%r1" };
        warp(
            &format!(
                "ld.global.u32 %r0, [%in];
                 setp.lt.u32 %p0, %r0, 4;
                 vote.sync.{question}.{ty} {to}, %p0, 0xffffffff;
                 {select}
                 st.global.u32 [%out], %r1;"
            ),
            |lane| [lane, 0, 0, 0, 0, 0, 0, 0],
        )
    };
    assert_eq!(vote("ballot", "b32"), [0xf; 32]);
    assert_eq!(vote("any", "pred"), [1; 32]);
    assert_eq!(vote("all", "pred"), [0; 32]);
    assert_eq!(vote("uni", "pred"), [0; 32]);
}

#[test]
fn lanes_reduce_and_find_their_like() {
    let body = |instruction: &str| {
        format!("ld.global.u32 %r0, [%in]; {instruction}; st.global.u32 [%out], %r1;")
    };
    let lane = |lane: u64| [lane, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        warp(&body("redux.sync.add.u32 %r1, %r0, 0xffffffff"), lane),
        [496; 32]
    );
    assert_eq!(
        warp(&body("redux.sync.max.s32 %r1, %r0, 0xffffffff"), lane),
        [31; 32]
    );
    let parity = |lane: u64| [lane % 2, 0, 0, 0, 0, 0, 0, 0];
    let found = warp(&body("match.any.sync.b32 %r1, %r0, 0xffffffff"), parity);
    assert_eq!(found[..2], [0x5555_5555, 0xaaaa_aaaa]);
}

/// Lanes that took another way meet the others behind it.
#[test]
fn lanes_part_and_meet() {
    let body = "
        ld.global.u32 %r0, [%in];
        mov.u32 %r1, 0;
    again:
        setp.ge.u32 %p0, %r1, %r0;
        @%p0 bra done;
        add.u32 %r1, %r1, 1;
        bra again;
    done:
        activemask.b32 %r2;
        setp.eq.u32 %p1, %r2, 0xffffffff;
        @!%p1 trap;
        st.global.u32 [%out], %r1;";
    let found = warp(body, |lane| [lane % 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(found, std::array::from_fn(|lane| lane as u64 % 5));
}

#[test]
fn predicates_leave_lanes_out() {
    let body = "
        ld.global.u32 %r0, [%in];
        mov.u32 %r1, 7;
        setp.gt.u32 %p0, %r0, 20;
        @%p0 mov.u32 %r1, 9;
        @!%p0 add.u32 %r1, %r1, 1;
        st.global.u32 [%out], %r1;";
    let found = warp(body, |lane| [lane, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        found,
        std::array::from_fn(|lane| if lane > 20 { 9 } else { 8 })
    );
}

#[test]
fn special_registers_say_who_a_lane_is() {
    let read = |register: &str| {
        warp(
            &format!("mov.u32 %r0, {register}; st.global.u32 [%out], %r0;"),
            |_| [0; 8],
        )
    };
    assert_eq!(read("%tid.x"), std::array::from_fn(|lane| lane as u64));
    assert_eq!(read("%ntid.x"), [32; 32]);
    assert_eq!(read("%ctaid.x"), [0; 32]);
    assert_eq!(
        read("%lanemask_lt"),
        std::array::from_fn(|lane| (1 << lane) - 1)
    );
    assert_eq!(
        read("%lanemask_ge"),
        std::array::from_fn(|lane| 0xffff_ffff & !((1u64 << lane) - 1))
    );
    assert_eq!(read("WARP_SZ"), [32; 32]);
}
