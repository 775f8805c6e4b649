//! What requests cost.

use crate::support::{SLOTS, run};
use ptx_device::machine::{Counters, Traffic};

fn counters(body: &str) -> Counters {
    run(body, &[[0; SLOTS]; 32])
        .unwrap_or_else(|fault| panic!("{fault}"))
        .outcome
        .counters
}

#[test]
fn global_memory_is_read_by_sectors() {
    // A word in each lane's 64 bytes: a sector each, of which an eighth is wanted.
    let found = counters("ld.global.u32 %r0, [%in];");
    assert_eq!(
        found.global_loads,
        Traffic {
            requests: 1,
            cost: 32,
            ideal: 4,
            bytes: 128
        }
    );
    // The same word for all.
    let found = counters("ld.param.u64 %rd0, [from]; ld.global.u32 %r0, [%rd0];");
    assert_eq!(
        found.global_loads,
        Traffic {
            requests: 1,
            cost: 1,
            ideal: 1,
            bytes: 128
        }
    );
}

#[test]
fn shared_memory_is_served_by_banks() {
    let store = |stride: u32, form: &str, words: &str| {
        let body = format!(
            "mov.u32 %r0, block; mad.lo.u32 %r1, %thread, {stride}, %r0; mov.u32 %r2, 0; st.shared.{form} [%r1], {words};"
        );
        let found = counters(&body).shared_stores;
        (found.cost, found.ideal)
    };
    assert_eq!(store(4, "u32", "%r2"), (1, 1));
    // Lanes that are 8 words apart share 4 banks by eights.
    assert_eq!(store(32, "u32", "%r2"), (8, 1));
    assert_eq!(store(128, "u32", "%r2"), (32, 1));
    // 16 bytes a lane take four wavefronts at best.
    assert_eq!(store(16, "v4.u32", "{%r2, %r2, %r2, %r2}"), (4, 4));
    assert_eq!(store(8, "v2.u32", "{%r2, %r2}"), (2, 2));
    // The same word is read for all lanes at once.
    let body = "mov.u32 %r0, block; mov.u32 %r2, 0; st.shared.u32 [%r0], %r2; bar.sync 0; ld.shared.u32 %r3, [%r0];";
    assert_eq!(counters(body).shared_loads.cost, 1);
}

#[test]
fn instructions_and_barriers_are_counted() {
    let before = counters("");
    let after = counters("bar.sync 0; setp.lt.u32 %p0, %thread, 8; @%p0 mov.u32 %r0, 1;");
    assert_eq!(after.warp_instructions - before.warp_instructions, 3);
    assert_eq!(
        after.lane_instructions - before.lane_instructions,
        32 + 32 + 8
    );
    assert_eq!(after.barriers, 1);
    assert_eq!(after.opcodes["setp.lt.u32"], 1);
}
