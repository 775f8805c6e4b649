//! Burn's `Learner`, stopped and resumed through its own checkpoints: on Flex the curve goes on with the same bits.

#[path = "../text-classifier/encoder.rs"]
mod encoder;
#[path = "../text-classifier/model.rs"]
mod model;
#[path = "../text-classifier/reviews.rs"]
mod reviews;
#[path = "../text-classifier/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::tensor::Device;
use burn::train::Interrupter;
use burn_paged::{Budget, PagedAdamWConfig, StateDtype};
use burn_qlora::{LoraConfig, LoraModel, QuantConfig, attach_adapters, freeze_base};

use model::{Batch, Classifier};
use reviews::{Review, ReviewBatcher, VOCABULARY, reviews};
use training::{Course, fit};

const EPOCHS: usize = 4;
const STEPS: usize = 5;
const ROWS: usize = 8;

/// Makes batches, and stops the training when it makes the one of this number.
struct StopAt {
    batch: usize,
    made: AtomicUsize,
    interrupter: Interrupter,
}

impl Batcher<Review, Batch> for StopAt {
    fn batch(&self, reviews: Vec<Review>, device: &Device) -> Batch {
        if self.made.fetch_add(1, Ordering::Relaxed) == self.batch {
            self.interrupter.stop(Some("the test says so"));
        }
        ReviewBatcher.batch(reviews, device)
    }
}

/// Returns batches in a fixed order.
fn loader(batcher: impl Batcher<Review, Batch> + 'static, seed: u64) -> Arc<dyn DataLoader<Batch>> {
    let data = InMemDataset::new(reviews(STEPS * ROWS, true, seed));
    let loader = DataLoaderBuilder::new(batcher).batch_size(ROWS);
    loader.set_device(Device::flex()).build(data)
}

/// Returns a classifier in 4 bits, its weights and adapters as `seed` says.
fn classifier(seed: u64) -> Classifier {
    let device = Device::flex().autodiff();
    device.seed(seed);
    let mut net = Classifier::new(VOCABULARY, 32, 1, &device);
    net.quantize(&QuantConfig::default()).unwrap();
    attach_adapters(&mut net, &LoraConfig::new(4, 8.0), seed).unwrap();
    freeze_base(net)
}

/// Trains from the checkpoint of epoch `resume`, or from the beginning, until `stop_at`, if that is given, and returns the bits of
/// all adapters.
fn trained(
    directory: &Path,
    state: StateDtype,
    resume: Option<usize>,
    stop_at: Option<usize>,
) -> Vec<u32> {
    let interrupter = Interrupter::new();
    let batcher = StopAt {
        batch: stop_at.unwrap_or(usize::MAX),
        made: AtomicUsize::new(0),
        interrupter: interrupter.clone(),
    };
    let course = Course {
        directory,
        epochs: EPOCHS,
        steps: STEPS,
        lr: 1e-2,
        resume,
        interrupter,
    };
    // All of the state goes through the page file.
    let paged = PagedAdamWConfig::new()
        .with_state(state)
        .with_min_8bit_elements(0)
        .with_page_bytes(4096)
        .with_budget(Budget::Bytes(0))
        .build()
        .unwrap();
    // A resumed training begins with weights and adapters of its own, which those of the checkpoint replace.
    let net = classifier(resume.map_or(0, |epoch| epoch as u64));
    let loaders = [loader(batcher, 1), loader(ReviewBatcher, 2)];
    let net = fit(net, ModuleOptimizer::from(paged), loaders, &course).unwrap();
    let branches = net.lora_linears().into_iter();
    let branches = branches.filter_map(|(_, linear)| linear.adapter.as_ref());
    branches
        .flat_map(|branch| [branch.lora.a.val(), branch.lora.b.val()])
        .flat_map(|factor| factor.into_data().try_into_vec::<f32>().unwrap())
        .map(f32::to_bits)
        .collect()
}

/// The losses of an epoch's steps, as Burn logs them: with all their digits.
fn losses(directory: &Path, split: &str, epoch: usize) -> Vec<String> {
    let log = directory.join(format!("{split}/epoch-{epoch}/Loss.log"));
    let text = fs::read_to_string(&log).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn goes_on_the_same_curve(state: StateDtype) {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [whole, resumed] = folders.each_ref().map(|folder| folder.path());
    let expected = trained(whole, state, None, None);

    // Stopped in the middle of the third epoch, of which no checkpoint tells.
    let stopped = trained(resumed, state, None, Some(2 * STEPS + 2));
    assert!(stopped != expected);
    assert!(trained(resumed, state, Some(2), None) == expected);
    for split in ["train", "valid"] {
        for epoch in 1..=EPOCHS {
            let curve = losses(whole, split, epoch);
            assert!(curve.len() >= STEPS, "{curve:?}");
            assert_eq!(losses(resumed, split, epoch), curve, "{split} {epoch}");
        }
    }

    // Without its moments it would be another one.
    let moments = resumed.join("checkpoint/optim-3.bpk");
    OptimizerRecord::default().save(&moments).unwrap();
    assert!(trained(resumed, state, Some(3), None) != expected);
}

/// One after the other: Burn's generator of random numbers is one for the whole process.
#[test]
fn a_learner_that_is_resumed_goes_on_the_same_curve() {
    for state in [StateDtype::F32, StateDtype::Dynamic8] {
        goes_on_the_same_curve(state);
    }
}
