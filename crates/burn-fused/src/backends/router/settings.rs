//! What an operation is asked for beside its operands, as the scalars that travel with it and back.

use burn_core::backend::ir::{BackendIr, ScalarIr};
use burn_core::backend::tensor::{FloatTensor, IntTensor};
use burn_operands::router::{Call, optional};
use nf4::glu::Activation;

use crate::config::{AttentionConfig, LogitsConfig, RmsNormConfig};
use crate::operands::AttentionMask;

/// The activations that a gate may have.
pub(super) const ACTIVATIONS: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

pub(super) fn rms_norm_scalars(config: RmsNormConfig) -> Vec<ScalarIr> {
    vec![
        ScalarIr::Float(config.eps),
        ScalarIr::Bool(config.unit_offset),
    ]
}

pub(super) fn rms_norm<B: BackendIr>(call: &mut Call<'_, B>) -> RmsNormConfig {
    RmsNormConfig {
        eps: call.number(),
        unit_offset: call.flag(),
    }
}

pub(super) fn activation_scalars(activation: Activation) -> Vec<ScalarIr> {
    let place = ACTIVATIONS.iter().position(|it| *it == activation);
    vec![ScalarIr::UInt(
        place.expect("the list is of all activations") as u64,
    )]
}

pub(super) fn attention_scalars(config: AttentionConfig) -> Vec<ScalarIr> {
    let mut scalars = vec![
        ScalarIr::Float(config.scale),
        ScalarIr::Bool(config.window.is_some()),
        ScalarIr::UInt(config.window.unwrap_or_default() as u64),
    ];
    scalars.extend(optional(config.softcap));
    scalars
}

/// Returns the mask, which is left of the operands, and the settings.
pub(super) fn attention<B: BackendIr>(
    call: &mut Call<'_, B>,
) -> (AttentionMask<B>, AttentionConfig) {
    let mask = match call.operands_left() {
        0 => AttentionMask::Causal,
        _ => AttentionMask::Packed { starts: call.int() },
    };
    let scale = call.number();
    let (has_window, window) = (call.flag(), call.size());
    let config = AttentionConfig {
        scale,
        window: has_window.then_some(window),
        softcap: call.optional(),
    };
    (mask, config)
}

pub(super) fn logits_scalars(config: LogitsConfig) -> Vec<ScalarIr> {
    let mut scalars = vec![ScalarIr::Float(config.scale)];
    scalars.extend(optional(config.softcap));
    scalars
}

/// Returns the operands and settings of a head's loss.
pub(super) fn head<B: BackendIr>(
    call: &mut Call<'_, B>,
) -> (FloatTensor<B>, FloatTensor<B>, IntTensor<B>, LogitsConfig) {
    let [hidden, weight] = call.floats();
    (hidden, weight, call.int(), logits(call))
}

/// Returns those of a head with a low-rank product beside its own.
pub(super) fn lora_head<B: BackendIr>(
    call: &mut Call<'_, B>,
) -> ([FloatTensor<B>; 4], IntTensor<B>, LogitsConfig) {
    (call.floats(), call.int(), logits(call))
}

fn logits<B: BackendIr>(call: &mut Call<'_, B>) -> LogitsConfig {
    LogitsConfig {
        scale: call.number(),
        softcap: call.optional(),
    }
}
