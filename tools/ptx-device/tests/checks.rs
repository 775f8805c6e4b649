//! What a kernel may not do is found, and what it may do is not.

use crate::support::{Ran, SLOTS, run};
use ptx_device::machine::{Fault, FaultAt, Hazard, Mask, Space};

fn threads(body: &str, threads: usize) -> Result<Ran, FaultAt> {
    run(body, &vec![[0; SLOTS]; threads])
}

fn fault(body: &str, count: usize) -> Fault {
    match threads(body, count) {
        Ok(_) => panic!("it should fail"),
        Err(at) => at.fault,
    }
}

fn hazards(body: &str, count: usize) -> Vec<(Hazard, bool)> {
    let ran = threads(body, count).unwrap_or_else(|fault| panic!("{fault}"));
    let findings = ran.outcome.findings.iter();
    findings
        .map(|found| (found.hazard, found.within_a_warp))
        .collect()
}

#[test]
fn memory_that_is_not_there() {
    let found = fault("st.global.u32 [%out + 64], 0;", 1);
    assert!(
        matches!(
            found,
            Fault::OutOfBounds {
                space: Space::Global,
                bytes: 4,
                ..
            }
        ),
        "{found}"
    );
    let found = fault("ld.global.v2.u64 {%rd0, %rd1}, [%in + 56];", 1);
    assert!(
        matches!(found, Fault::Misaligned { bytes: 16, .. }),
        "{found}"
    );
    let found = fault("mov.u32 %r0, block; ld.shared.u32 %r1, [%r0 + 4096];", 1);
    assert!(
        matches!(
            found,
            Fault::OutOfBounds {
                space: Space::Shared,
                ..
            }
        ),
        "{found}"
    );
    let found = fault("mov.u64 %rd0, 0; ld.u32 %r1, [%rd0];", 1);
    assert!(
        matches!(
            found,
            Fault::OutOfBounds {
                space: Space::Global,
                address: 0,
                ..
            }
        ),
        "{found}"
    );
}

#[test]
fn a_fault_says_where_it_happened() {
    let at = threads("setp.eq.u32 %p0, %thread, 40; @%p0 trap;", 64)
        .map(|_| ())
        .expect_err("it should trap");
    assert_eq!(
        (at.kernel.as_str(), at.block, at.warp, at.statement.as_str()),
        ("kernel", [0; 3], 1, "@%p0 trap")
    );
}

/// Every thread writes a word and reads its neighbour's in the other warp.
const EXCHANGE: &str = "
    mov.u32 %r0, block;
    mad.lo.u32 %r1, %thread, 4, %r0;
    st.shared.u32 [%r1], %thread;
    BARRIER
    xor.b32 %r2, %thread, NEIGHBOUR;
    mad.lo.u32 %r3, %r2, 4, %r0;
    ld.shared.u32 %r4, [%r3];
    st.global.u32 [%out], %r4;";

fn exchange(barrier: &str, neighbour: u32) -> String {
    EXCHANGE
        .replace("BARRIER", barrier)
        .replace("NEIGHBOUR", &neighbour.to_string())
}

#[test]
fn races_between_warps() {
    assert_eq!(hazards(&exchange("bar.sync 0;", 32), 64), []);
    let found = hazards(&exchange("", 32), 64);
    assert!(
        found.contains(&(Hazard::ReadAfterWrite, false))
            || found.contains(&(Hazard::Uninitialized, false)),
        "{found:?}"
    );
    // A barrier of the warp orders nothing between two of them.
    assert_ne!(hazards(&exchange("bar.warp.sync -1;", 32), 64), []);
}

#[test]
fn races_within_a_warp() {
    assert_eq!(hazards(&exchange("bar.warp.sync -1;", 1), 32), []);
    assert_eq!(hazards(&exchange("bar.sync 0;", 1), 32), []);
    assert_eq!(
        hazards(&exchange("", 1), 32),
        [(Hazard::ReadAfterWrite, true)]
    );
}

#[test]
fn a_write_after_a_read_needs_a_barrier() {
    let body = |barrier: &str| {
        exchange("bar.sync 0;", 32) + barrier + "add.u32 %r5, %thread, 1; st.shared.u32 [%r1], %r5;"
    };
    assert_eq!(hazards(&body("bar.sync 0;"), 64), []);
    assert!(hazards(&body(""), 64).contains(&(Hazard::WriteAfterRead, false)));
}

#[test]
fn two_writers_of_a_word() {
    let body = |value: &str| {
        format!("mov.u32 %r0, block; shr.u32 %r1, {value}, 5; st.shared.u32 [%r0], %r1;")
    };
    assert!(hazards(&body("%thread"), 64).contains(&(Hazard::WriteAfterWrite, false)));
    // The same value from all disturbs nobody.
    assert_eq!(hazards(&body("7"), 64), []);
}

#[test]
fn shared_memory_that_nobody_wrote() {
    let body = "mov.u32 %r0, block; ld.shared.u32 %r1, [%r0];";
    assert_eq!(hazards(body, 1), [(Hazard::Uninitialized, false)]);
}

#[test]
fn lanes_that_do_not_come() {
    let body = "setp.lt.u32 %p0, %thread, 16; @%p0 bra away; bar.warp.sync -1; away:";
    let missing = Mask(0xffff);
    assert_eq!(
        fault(body, 32),
        Fault::MissingLanes {
            missing,
            present: Mask(0xffff_0000)
        }
    );
    let product = "setp.lt.u32 %p0, %thread, 16; @%p0 bra away; \
        mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1}, {%r2}, {%f0, %f1, %f2, %f3}; away:";
    assert!(matches!(fault(product, 32), Fault::MissingLanes { .. }));
    let absent = "setp.lt.u32 %p0, %thread, 16; @!%p0 bra away; shfl.sync.bfly.b32 %r0, %thread, 16, 31, 0xffff; away:";
    assert!(matches!(
        fault(absent, 32),
        Fault::AbsentLane { lane: 0, from: 16 }
    ));
}

#[test]
fn barriers_that_not_all_come_to() {
    let parted = "setp.lt.u32 %p0, %thread, 16; @%p0 bar.sync 0;";
    assert_eq!(fault(parted, 32), Fault::DivergentBarrier);
    let two = "setp.lt.u32 %p0, %thread, 16; @%p0 bra other; bar.sync 0; bra end; other: bar.sync 0; end:";
    assert_eq!(fault(two, 32), Fault::DivergentBarrier);
    let ended = "setp.lt.u32 %p0, %thread, 32; @%p0 ret; bar.sync 0;";
    assert_eq!(
        fault(ended, 64),
        Fault::EndedBeforeBarrier {
            warp: 0,
            ended: Mask::ALL
        }
    );
}

#[test]
fn a_kernel_that_does_not_end() {
    assert_eq!(
        fault("again: bra again;", 1),
        Fault::Budget { limit: 100_000 }
    );
}
