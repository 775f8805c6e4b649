//! Burn's `Learner` on the classifier.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::data::dataloader::DataLoader;
use burn::optim::ModuleOptimizer;
use burn::optim::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Interrupter, Learner, SupervisedTraining};

use crate::model::{Batch, Classifier};

/// The course of a training.
pub struct Course<'a> {
    /// The folder for checkpoints and the logs of metrics.
    pub directory: &'a Path,
    /// Epochs, from the first one on.
    pub epochs: usize,
    /// Steps of an epoch: the learning rate falls over all of them.
    pub steps: usize,
    /// The rate of the first step.
    pub lr: f64,
    /// The epoch after whose checkpoint the training goes on; `None` begins it.
    pub resume: Option<usize>,
    /// Stops the training from outside.
    pub interrupter: Interrupter,
}

/// Trains `net`, and returns it as it is for inference.
pub fn fit(
    net: Classifier,
    optimizer: ModuleOptimizer,
    [train, valid]: [Arc<dyn DataLoader<Batch>>; 2],
    course: &Course,
) -> Result<Classifier> {
    let schedule = CosineAnnealingLrSchedulerConfig::new(course.lr, course.epochs * course.steps);
    let schedule = schedule.init().map_err(anyhow::Error::msg)?;
    let mut training = SupervisedTraining::new(course.directory, train, valid)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .with_default_checkpointers()
        .with_interrupter(course.interrupter.clone())
        .with_application_logger(None)
        .num_epochs(course.epochs);
    if let Some(epoch) = course.resume {
        training = training.checkpoint(epoch);
    }
    let result = training.launch(Learner::new(net, optimizer, schedule));
    if let Some(error) = result.error {
        bail!(error);
    }
    Ok(result.model)
}
