//! What requests cost.

use crate::support::{SLOTS, run};
use ptx_device::machine::{Counters, Traffic};
use ptx_device::replay::{Parameter, Recorded, ReplayError};

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

/// A kernel of which each thread reads a word that a block has 32 of and writes it elsewhere, as often as a value says.
const COPIES: &str = ".version 8.7
.target sm_90
.address_size 64
.visible .entry copies(.param .u64 from, .param .u64 to, .param .align 8 .b8 times[8])
{
    .reg .b64 %rd<8>;
    .reg .b32 %r<8>;
    .reg .pred %p<2>;
    ld.param.u64 %rd0, [from];
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r0, [times];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %tid.x;
    mad.lo.u32 %r3, %r1, 32, %r2;
    mul.wide.u32 %rd2, %r3, 4;
    add.u64 %rd0, %rd0, %rd2;
    add.u64 %rd1, %rd1, %rd2;
again:
    ld.global.u32 %r4, [%rd0];
    st.global.u32 [%rd1], %r4;
    sub.u32 %r0, %r0, 1;
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra again;
    ret;
}";

fn copies(blocks: u32, bytes: usize) -> Recorded {
    let memory = |number, offset| Parameter::Memory {
        number,
        bytes,
        offset,
    };
    Recorded {
        entry: "copies".to_owned(),
        grid: [blocks, 1, 1],
        block: [32, 1, 1],
        dynamic_shared: 0,
        parameters: vec![memory(0, 0), memory(1, 0), Parameter::Value(vec![3])],
    }
}

#[test]
fn a_launch_that_was_written_down_runs_one_block() {
    let recorded = copies(5, 5 * 128);
    let counted = recorded.run_middle_block(COPIES, 1000).unwrap();
    assert_eq!(counted.warp_instructions, 9 + 3 * 5 + 1);
    assert_eq!(counted.global_loads.requests, 3);
    // 128 bytes, aligned as an allocation is.
    assert_eq!(counted.global_loads.cost, 3 * 4);
    assert_eq!(counted.global_stores.cost, 3 * 4);
    assert_eq!(counted, recorded.run_middle_block(COPIES, 1000).unwrap());
}

#[test]
fn a_launch_that_was_written_down_is_held_to_its_memory_and_parameters() {
    // The block in the middle is the third.
    let beyond = copies(5, 2 * 128 + 64).run_middle_block(COPIES, 1000);
    assert!(matches!(beyond, Err(ReplayError::Fault(_))), "{beyond:?}");
    let endless = copies(5, 5 * 128).run_middle_block(COPIES, 20);
    assert!(matches!(endless, Err(ReplayError::Fault(_))), "{endless:?}");
    let mut short = copies(5, 5 * 128);
    short.parameters.pop();
    let short = short.run_middle_block(COPIES, 1000);
    let expected = "the kernel takes 3 parameters, and the launch gives 2";
    assert_eq!(short.unwrap_err().to_string(), expected);
    let mut wide = copies(5, 5 * 128);
    wide.parameters[2] = Parameter::Value(vec![3, 3]);
    let wide = wide.run_middle_block(COPIES, 1000);
    assert!(matches!(wide, Err(ReplayError::Parameter(2))), "{wide:?}");
    let unknown = Recorded {
        entry: "moves".to_owned(),
        ..copies(5, 5 * 128)
    };
    let unknown = unknown.run_middle_block(COPIES, 1000).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no kernel moves");
}
