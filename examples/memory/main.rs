//! What a step of training takes in memory: the modules of the other examples, made wide, with adapters on dense weights, by Burn's
//! `apply_lora` and `apply_qlora`, and on 4-bit weights.
//!
//! ```text
//! cargo run --release --example memory
//! ```

#[path = "../text-classifier/encoder.rs"]
mod encoder;
mod modules;
#[path = "../own-llm/model.rs"]
mod own_llm;
#[path = "../qlora-linear/model.rs"]
mod qlora_linear;
#[path = "../text-classifier/model.rs"]
mod text_classifier;
#[path = "../vision-transformer/model.rs"]
mod vision_transformer;
mod ways;

use anyhow::Result;
use qlora_test_support::CountingAllocator;

use crate::modules::{Example, examples};
use crate::ways::{Measured, Way};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

impl Example {
    fn of(&self, way: Way) -> Measured {
        self.ways[way as usize]
    }

    /// Returns the least bytes by which a step of QLoRA is below one of `apply_qlora`. On Flex a 4-bit value of Burn's takes a byte,
    /// with an f32 to 64 of them 8.5 bits, and NF4 with double quantization takes 4.127; and Burn keeps `W + s·AB`, in f32, of every
    /// layer whose input asks for a gradient.
    fn predicted(&self) -> f64 {
        let kept = 4 * (self.weights - self.untracked);
        (8.5 - 4.127) / 8.0 * self.weights as f64 + kept as f64
    }
}

fn main() -> Result<()> {
    println!("| module | way | held, MB | peak of a step, MB | loss before | after |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for example in examples()? {
        for way in Way::ALL {
            let Measured { held, peak, losses } = example.of(way);
            let [held, peak] = [held, peak].map(|bytes| bytes as f64 / 1e6);
            let ([before, after], name) = (losses, way.name());
            let module = example.name;
            println!("| {module} | {name} | {held:.1} | {peak:.1} | {before:.4} | {after:.4} |");
        }
        let [ours, burns] = [Way::Ours, Way::BurnQlora].map(|way| example.of(way).peak as f64);
        println!(
            "| {} | `apply_qlora` above QLoRA | | {:.1} ({:.1} times); at least {:.1} by arithmetic | | |",
            example.name,
            (burns - ours) / 1e6,
            burns / ours,
            example.predicted() / 1e6
        );
    }
    Ok(())
}

/// Alone in its process, since what other tests take would be counted.
#[test]
fn qlora_takes_less_than_burns_own_by_what_arithmetic_says() {
    for example in examples().unwrap() {
        let [ours, burns] = [Way::Ours, Way::BurnQlora].map(|way| example.of(way).peak as f64);
        assert!(
            burns - ours >= example.predicted(),
            "{}: {burns} and {ours}",
            example.name
        );
        for way in Way::ALL {
            let [before, after] = example.of(way).losses;
            assert!(
                after < before,
                "{} {way:?}: {before} to {after}",
                example.name
            );
        }
        // All that quantization changes is the weights.
        let [ours, decoded] = [Way::Ours, Way::Decoded].map(|way| example.of(way).losses);
        for (ours, decoded) in ours.into_iter().zip(decoded) {
            assert!(
                (ours - decoded).abs() < 1e-3 * decoded,
                "{}: {ours} and {decoded}",
                example.name
            );
        }
    }
}
