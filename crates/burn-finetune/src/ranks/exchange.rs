use super::{GradientDtype, Ranks, checksum};
use crate::error::FinetuneError;
use crate::evaluate::check_weights;
use crate::optimizer::like;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use burn_qlora::{CausalLm, LoraModel};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What the micro-batches of one rank gave.
pub(crate) struct Given {
    /// The loss of each, `[1]`, with its place among those of the step.
    pub losses: Vec<(usize, Tensor<1>)>,
    /// The number of micro-batches of the step, on all ranks.
    pub micro_batches: usize,
    /// The sums of their gradients in the order of the factors; empty where the rank had no micro-batch.
    pub gradients: Vec<Option<Tensor<2>>>,
}

impl Ranks {
    /// Returns the sums over all ranks: of the losses, in the order of the micro-batches, and of the gradients of every factor of
    /// `model`.
    ///
    /// # Errors
    /// [`FinetuneError::Device`], [`FinetuneError::Paged`], [`FinetuneError::Ranks`].
    pub(crate) fn summed<M: CausalLm>(
        &self,
        model: &M,
        given: Given,
        limit: Option<Duration>,
    ) -> Result<(f64, Vec<Option<Tensor<2>>>), FinetuneError> {
        let factors = Factors::of(model);
        let Some(link) = &self.link else {
            unreachable!("a rank alone has nothing to add up")
        };
        let Given {
            losses,
            micro_batches,
            mut gradients,
        } = given;
        gradients.resize_with(factors.shapes.len(), || None);

        // One reading of the device for everything.
        let places: Vec<usize> = losses.iter().map(|(place, _)| *place).collect();
        let parts = losses.into_iter().map(|(_, loss)| loss);
        let of_factors = gradients.iter().flatten().map(|gradient| {
            let size = gradient.shape().num_elements();
            gradient.clone().reshape([size])
        });
        let values = read_all("gradients", parts.chain(of_factors).collect())?;
        check_weights(model)?;
        let (of_losses, mut rest) = values.split_at(places.len());

        // A slot for each micro-batch and each factor, to which one rank or none adds something else than 0: the losses are
        // added up in the order in which one process does it.
        let mut small = vec![0.0; micro_batches + factors.shapes.len()];
        for (place, loss) in places.into_iter().zip(of_losses) {
            small[place] = f64::from(*loss);
        }
        let mut flat = vec![0.0; factors.elements()];
        let mut start = 0;
        for (place, (gradient, shape)) in gradients.iter().zip(&factors.shapes).enumerate() {
            let size = shape[0] * shape[1];
            if gradient.is_some() {
                small[micro_batches + place] = 1.0;
                let (own, others) = rest.split_at(size);
                flat[start..start + size].copy_from_slice(own);
                rest = others;
            }
            start += size;
        }
        link.sum(&mut small, limit)?;
        link.sum_gradients(&mut flat, self.dtype, limit)?;

        let (losses, given) = small.split_at(micro_batches);
        let loss = losses.iter().fold(0.0, |sum, loss| sum + loss);
        let mut gradients = factors.taken_apart(&flat);
        for (gradient, ranks) in gradients.iter_mut().zip(given) {
            if *ranks == 0.0 {
                *gradient = None;
            }
        }
        Ok((loss, gradients))
    }

    /// Gives every rank the first one's adapters, where they do not compute the same bits.
    ///
    /// # Errors
    /// [`FinetuneError::Device`], [`FinetuneError::Ranks`].
    pub(crate) fn keep_together<M: LoraModel>(
        &self,
        model: &mut M,
        limit: Option<Duration>,
    ) -> Result<(), FinetuneError> {
        if self.send_adapters() {
            self.send(model, limit)?;
        }
        Ok(())
    }

    /// Compares the adapters of all ranks. Where one has others, all get the first one's, now and after every step from now on;
    /// returns the first rank that had others.
    ///
    /// # Errors
    /// [`FinetuneError::Device`], [`FinetuneError::Ranks`].
    pub(crate) fn compare_adapters<M: LoraModel>(
        &self,
        model: &mut M,
    ) -> Result<Option<usize>, FinetuneError> {
        if !self.are_many() || self.send_adapters() {
            return Ok(None);
        }
        let odd = self.odd_one(adapters_checksum(model)?)?;
        if odd.is_some() {
            self.sends_adapters.store(true, Ordering::Relaxed);
            self.send(model, None)?;
        }
        Ok(odd)
    }

    fn send<M: LoraModel>(
        &self,
        model: &mut M,
        limit: Option<Duration>,
    ) -> Result<(), FinetuneError> {
        let factors = Factors::of(model);
        let mut flat = match self.is_first() {
            true => values(model)?,
            false => vec![0.0; factors.elements()],
        };
        if let Some(link) = &self.link {
            link.sum_gradients(&mut flat, GradientDtype::F32, limit)?;
        }
        let mut sent = factors.taken_apart(&flat).into_iter();
        let mut take = |param: Param<Tensor<2>>| match sent.next().flatten() {
            Some(value) => param.map(|tensor| like(value, &tensor)),
            None => param,
        };
        model.update_adapters(&mut |mut branch| {
            branch.lora.a = take(branch.lora.a);
            branch.lora.b = take(branch.lora.b);
            branch
        });
        model.update_token_rows(&mut take);
        Ok(())
    }
}

/// Returns the checksum of the adapters of `model` and of the rows of tokens that are trained beside them, bit by bit.
///
/// # Errors
/// [`FinetuneError::Device`] when they cannot be read.
pub fn adapters_checksum<M: LoraModel>(model: &M) -> Result<u64, FinetuneError> {
    let bytes = values(model)?.into_iter().flat_map(f32::to_le_bytes);
    Ok(checksum(&bytes.collect::<Vec<u8>>()))
}

/// The factors of adapters and the rows of tokens behind them, in the order in which a model has them.
struct Factors {
    shapes: Vec<[usize; 2]>,
    device: Device,
}

impl Factors {
    fn of<M: LoraModel>(model: &M) -> Self {
        let params = params(model);
        let device = params.first().map(|param| param.lazy_device());
        Self {
            shapes: params.iter().map(|param| param.dims()).collect(),
            device: device.unwrap_or_default().without_autodiff(),
        }
    }

    fn elements(&self) -> usize {
        self.shapes.iter().map(|shape| shape[0] * shape[1]).sum()
    }

    /// Returns the values of each factor, on its device.
    fn taken_apart(&self, flat: &[f32]) -> Vec<Option<Tensor<2>>> {
        let mut rest = flat;
        let each = self.shapes.iter().map(|shape| {
            let (own, others) = rest.split_at(shape[0] * shape[1]);
            rest = others;
            let data = TensorData::new(own.to_vec(), *shape);
            Some(Tensor::from_data(data, &self.device))
        });
        each.collect()
    }
}

fn params<M: LoraModel>(model: &M) -> Vec<&Param<Tensor<2>>> {
    let branches = model.lora_adapters().into_iter();
    let factors = branches.flat_map(|(_, branch)| [&branch.lora.a, &branch.lora.b]);
    let rows = model.token_rows().into_iter();
    factors.chain(rows.map(|(_, rows)| &rows.rows)).collect()
}

/// Returns the values of every factor, one after the other.
fn values<M: LoraModel>(model: &M) -> Result<Vec<f32>, FinetuneError> {
    let each = params(model).into_iter().map(|param| {
        let size = param.dims().iter().product::<usize>();
        param.val().without_autodiff().reshape([size])
    });
    read_all("adapters", each.collect())
}

/// Reads tensors of one device to the host, one after the other.
fn read_all(what: &str, parts: Vec<Tensor<1>>) -> Result<Vec<f32>, FinetuneError> {
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let data = Tensor::cat(parts, 0).try_into_data();
    let data = data.map_err(|error| FinetuneError::Device {
        what: what.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(data.iter::<f32>().collect())
}
