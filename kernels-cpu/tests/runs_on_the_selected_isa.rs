//! The instruction set of a process, forced from outside and asked for by name.
//!
//! The choice holds for a whole process, so each is made in one of its own: this program again, for the one test
//! [`child`].

use std::process::Output;

use nf4::{Direction, QuantConfig, reference};
use qlora_cpu::{Cpu, ISA_VARIABLE, Isa, IsaError, Threads, matmul_vec};
use qlora_test_support::{assert_passed, in_own_process};

/// Names the instruction set that the child expects in use.
const EXPECTED: &str = "EXPECTED_ISA";

/// Runs [`child`] with the instruction set of a name forced, to expect another.
fn child_on(forced: &str, expected: &str) -> Output {
    in_own_process("child", &[(ISA_VARIABLE, forced), (EXPECTED, expected)])
}

#[test]
#[ignore = "a part of the other tests, which run it with the variables it reads"]
fn child() {
    let expected: Isa = std::env::var(EXPECTED).unwrap().parse().unwrap();
    let selected = Isa::selected().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(selected, expected);
    assert_eq!(qlora_cpu::isa().name(), expected.name());
    assert_eq!(Cpu::default(), Cpu::new(expected, Threads::All));

    let values: Vec<f32> = (0..96 * 200).map(|i| (i as f32 * 0.37).sin()).collect();
    let w = reference::quantize(&values, [96, 200], QuantConfig::default()).unwrap();
    for m in [1, 40] {
        let x = &values[..m * 200];
        let found = matmul_vec(w.as_ref(), x, m, Direction::Forward);
        let cpu = Cpu::new(expected, Threads::All);
        assert_eq!(found, cpu.matmul_vec(w.as_ref(), x, m, Direction::Forward));
    }

    for other in Isa::available() {
        let settled = IsaError::Settled {
            used: expected,
            asked: *other,
        };
        let is_same = *other == expected;
        let found = other.select();
        assert_eq!(found, if is_same { Ok(()) } else { Err(settled) });
    }
}

#[test]
fn every_instruction_set_of_the_machine_is_forced_by_its_name() {
    for isa in Isa::available() {
        assert_passed(&child_on(isa.name(), isa.name()));
    }
}

/// Unless this program was run with one forced on it.
#[test]
fn the_fastest_is_used_where_none_is_named() {
    let expected = match std::env::var(ISA_VARIABLE) {
        Ok(forced) => forced,
        Err(_) => Isa::best().name().to_string(),
    };
    assert_passed(&in_own_process("child", &[(EXPECTED, &expected)]));
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let absent = if cfg!(target_arch = "x86_64") {
        "neon"
    } else {
        "avx2"
    };
    for (name, reason) in [
        (absent, format!("this machine cannot run {absent}; it has ")),
        (
            "sse9",
            "\"sse9\" is no instruction set of the kernels; this machine has ".into(),
        ),
        ("", "\"\" is no instruction set".into()),
    ] {
        let output = child_on(name, "portable");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name:?} was taken");
        assert!(
            error.contains(&format!("{ISA_VARIABLE}: {reason}")),
            "{error}"
        );
        let error = name.parse::<Isa>().unwrap_err().to_string();
        assert!(error.starts_with(&reason), "{error}");
    }
}
