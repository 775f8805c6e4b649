//! AdamW over the adapters.
//!
//! The arithmetic is burn-optim's `AdamW`: decoupled decay, epsilon outside the square root, as in torch.
//! The moments are kept by layer rather than by parameter id (what `ModuleOptimizer` does), so that a
//! checkpoint names them as the adapter file names the factors, a new process finds them again, and they
//! are restored on the device of the model, whatever Burn's default device is.

use crate::FinetuneError;
use burn::module::Param;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_qlora::LoraModel;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// AdamW and its moments for A and B of every adapter, in the order of the model's layers.
#[derive(Clone)]
pub struct AdapterOptimizer {
    adamw: AdamW,
    states: Vec<Option<AdamWState<2>>>,
}

impl AdapterOptimizer {
    /// An optimizer that has seen nothing yet.
    pub fn new(config: &AdamWConfig) -> Self {
        Self {
            adamw: config.build(),
            states: Vec::new(),
        }
    }

    /// Updates the adapters by their `gradients`, those of A and B of every adapter in the order of the
    /// layers, at learning rate `lr`. A factor without a gradient stays as it is.
    pub fn step<M: LoraModel>(
        &mut self,
        model: &mut M,
        lr: f64,
        gradients: Vec<Option<Tensor<2>>>,
    ) {
        self.states.resize_with(gradients.len(), || None);
        let mut slots = self.states.iter_mut().zip(gradients);
        let mut update = |param: Param<Tensor<2>>| match slots.next() {
            Some((state, Some(gradient))) => param.map(|tensor| {
                let (updated, new) =
                    self.adamw
                        .step(lr, tensor.clone().inner(), gradient, state.take());
                *state = new;
                like(updated, &tensor)
            }),
            _ => param,
        };
        for (_, linear) in model.lora_linears_mut() {
            linear.adapter = linear.adapter.take().map(|mut branch| {
                branch.lora.a = update(branch.lora.a);
                branch.lora.b = update(branch.lora.b);
                branch
            });
        }
    }

    /// The moments as a safetensors file, keyed `<layer>.lora_A.moment_1` and so on.
    ///
    /// # Errors
    /// [`FinetuneError::Device`] when a moment cannot be read.
    pub fn to_bytes<M: LoraModel>(&self, model: &M) -> Result<Vec<u8>, FinetuneError> {
        let mut tensors: BTreeMap<String, TensorData> = BTreeMap::new();
        for (name, state) in factor_names(model).into_iter().zip(&self.states) {
            let Some(state) = state else { continue };
            let momentum = &state.momentum;
            for (moment, value) in [
                ("moment_1", &momentum.moment_1),
                ("moment_2", &momentum.moment_2),
            ] {
                let key = format!("{name}.{moment}");
                let data =
                    value
                        .clone()
                        .try_into_data()
                        .map_err(|error| FinetuneError::Device {
                            what: format!("optimizer state `{key}`"),
                            reason: error.to_string(),
                        })?;
                tensors.insert(key, data);
            }
            let steps = TensorData::new(vec![momentum.time as i64], [1]);
            tensors.insert(format!("{name}.steps"), steps);
        }
        let failed = |error: safetensors::SafeTensorError| FinetuneError::Device {
            what: "the optimizer state".into(),
            reason: error.to_string(),
        };
        let views = tensors
            .iter()
            .map(|(name, data)| {
                let dtype = match data.dtype() {
                    DType::F32 => Dtype::F32,
                    DType::I64 => Dtype::I64,
                    other => {
                        return Err(FinetuneError::Device {
                            what: format!("optimizer state `{name}`"),
                            reason: format!("adapters train in F32, not {other:?}"),
                        });
                    }
                };
                TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())
                    .map(|view| (name.as_str(), view))
                    .map_err(failed)
            })
            .collect::<Result<Vec<_>, _>>()?;
        safetensors::serialize(views, None).map_err(failed)
    }

    /// Takes the moments back from the file at `path`, onto the devices of the model's layers.
    ///
    /// # Errors
    /// [`FinetuneError::Read`] when it cannot be read, [`FinetuneError::Malformed`] when it is broken or
    /// does not fit the model's adapters.
    pub fn load<M: LoraModel>(&mut self, model: &M, path: &Path) -> Result<(), FinetuneError> {
        let bytes = std::fs::read(path).map_err(|source| FinetuneError::Read {
            path: path.to_owned(),
            source,
        })?;
        let malformed = |reason: String| FinetuneError::Malformed {
            path: path.to_owned(),
            expected: "optimizer state",
            reason,
        };
        let file =
            SafeTensors::deserialize(&bytes).map_err(|error| malformed(error.to_string()))?;
        let mut states = Vec::new();
        let mut used = 0;
        for (name, shape, device) in factors(model) {
            // A factor that never had a gradient has no state.
            let Ok(steps) = file.tensor(&format!("{name}.steps")) else {
                states.push(None);
                continue;
            };
            let time = steps
                .data()
                .try_into()
                .ok()
                .and_then(|bytes| usize::try_from(i64::from_le_bytes(bytes)).ok())
                .ok_or_else(|| malformed(format!("`{name}.steps` is not a count")))?;
            let moment = |moment: &str| {
                let key = format!("{name}.{moment}");
                let view = file
                    .tensor(&key)
                    .map_err(|_| malformed(format!("there is no `{key}`")))?;
                if view.shape() != shape || view.dtype() != Dtype::F32 {
                    return Err(malformed(format!(
                        "`{key}` is {} {:?}, but the adapter needs F32 {shape:?}",
                        view.dtype(),
                        view.shape()
                    )));
                }
                let data = TensorData::from_bytes_vec(view.data().to_vec(), shape, DType::F32);
                Ok(Tensor::<2>::from_data(data, (&device, DType::F32)))
            };
            let momentum =
                AdaptiveMomentumState::new(time, moment("moment_1")?, moment("moment_2")?);
            states.push(Some(AdamWState::new(momentum)));
            used += 3;
        }
        if used != file.len() {
            return Err(malformed("it holds the state of other adapters too".into()));
        }
        self.states = states;
        Ok(())
    }
}

/// `value` as the parameter that `old` was: a leaf of the graph with the same settings.
fn like(value: Tensor<2>, old: &Tensor<2>) -> Tensor<2> {
    match old.gradient_checkpointing_strategy() {
        Some(strategy) => Tensor::from_inner(value)
            .with_gradient_checkpointing_strategy(strategy)
            .set_require_grad(old.is_require_grad()),
        None => value,
    }
}

/// Name, shape (as Burn holds it) and plain device of every factor, in order.
fn factors<M: LoraModel>(model: &M) -> Vec<(String, [usize; 2], Device)> {
    model
        .lora_linears()
        .into_iter()
        .filter_map(|(path, linear)| Some((path, linear.adapter.as_ref()?)))
        .flat_map(|(path, branch)| {
            [('A', &branch.lora.a), ('B', &branch.lora.b)].map(|(factor, param)| {
                let device = param.lazy_device().without_autodiff();
                (format!("{path}.lora_{factor}"), param.dims(), device)
            })
        })
        .collect()
}

fn factor_names<M: LoraModel>(model: &M) -> Vec<String> {
    factors(model).into_iter().map(|(name, ..)| name).collect()
}
