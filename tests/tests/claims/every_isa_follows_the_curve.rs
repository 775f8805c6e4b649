//! Training follows the recorded curve on every instruction set of the CPU that this machine has.
//!
//! A process has one for all its kernels, so each runs [`the_curve`] in one of its own.

use burn::tensor::Device;
use burn_qlora::Checkpointing;
use qlora_cpu::{ISA_VARIABLE, Isa};
use qlora_test_support::{TestDevice, assert_passed, in_own_process};
use qlora_tests::Curve;

use crate::curve_matches_peft::follow;

#[test]
#[ignore = "a part of the other test, which runs it with an instruction set forced"]
fn the_curve() {
    let forced = std::env::var(ISA_VARIABLE).expect("an instruction set is forced");
    assert_eq!(qlora_cpu::isa().name(), forced);
    let test = TestDevice::new("flex", Device::flex());
    follow(&test, &forced, &Curve::llama(), Checkpointing::Layer);
}

#[test]
fn every_step_and_the_final_adapter() {
    for isa in Isa::available() {
        let test = "every_isa_follows_the_curve::the_curve";
        assert_passed(&in_own_process(test, &[(ISA_VARIABLE, isa.name())]));
    }
}
