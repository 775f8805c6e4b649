//! The operations where they run.

use burn_core::backend::ir::BackendIr;
use burn_operands::router::serve;
use burn_router::CustomOpRegistry;

use super::settings::{ACTIVATIONS, attention, head, lora_head, rms_norm};
use super::{
    ADD_RMS_NORM, ADD_RMS_NORM_BACKWARD, ATTENTION, ATTENTION_BACKWARD, CROSS_ENTROPY,
    CROSS_ENTROPY_GRAD_HIDDEN, CROSS_ENTROPY_GRADS, GLU, GLU_BACKWARD, LORA_CROSS_ENTROPY,
    LORA_CROSS_ENTROPY_GRADS, LORA_TOKEN_CROSS_ENTROPY, LORA_TOKEN_CROSS_ENTROPY_GRAD_FACTOR,
    LORA_TOKEN_CROSS_ENTROPY_GRAD_TOKENS, MATMUL, RMS_NORM, RMS_NORM_BACKWARD,
    RMS_NORM_BACKWARD_WEIGHT, ROPE, TOKEN_CROSS_ENTROPY, TOKEN_CROSS_ENTROPY_GRAD_HIDDEN,
    TOKEN_CROSS_ENTROPY_GRAD_WEIGHT, WIDENED_MATMUL,
};
use crate::ops::FusedOps;

/// Registers the operations of [`FusedOps`] with a server of remote devices, or with the interpreter of a captured graph.
///
/// The registry goes to the server (`with_custom_ops`) before it starts. The features of the server's backend must be on in this
/// crate there.
pub fn register_fused_ops<B: BackendIr + FusedOps>(registry: &mut CustomOpRegistry<B>) {
    serve(registry, MATMUL, |call| {
        let (lhs, rhs) = (call.float(), call.float());
        call.give([B::matmul(lhs, rhs)]);
    });
    serve(registry, WIDENED_MATMUL, |call| {
        let (lhs, rhs) = (call.float(), call.float());
        call.give([B::widened_matmul(lhs, rhs)]);
    });
    serve(registry, RMS_NORM, |call| {
        let (x, weight) = (call.float(), call.float());
        let config = rms_norm(call);
        call.give(B::rms_norm_forward(x, weight, config).into());
    });
    serve(registry, RMS_NORM_BACKWARD, |call| {
        let [x, weight, inv_rms, grad] = call.floats();
        let config = rms_norm(call);
        call.give([B::rms_norm_backward(x, weight, inv_rms, grad, config)]);
    });
    serve(registry, RMS_NORM_BACKWARD_WEIGHT, |call| {
        let [x, inv_rms, grad] = call.floats();
        call.give([B::rms_norm_backward_weight(x, inv_rms, grad)]);
    });
    serve(registry, ADD_RMS_NORM, |call| {
        let [x, residual, weight] = call.floats();
        let config = rms_norm(call);
        call.give(B::add_rms_norm_forward(x, residual, weight, config).into());
    });
    serve(registry, ADD_RMS_NORM_BACKWARD, |call| {
        let [sum, weight, inv_rms, grad_sum, grad] = call.floats();
        let config = rms_norm(call);
        let dx = B::add_rms_norm_backward(sum, weight, inv_rms, grad_sum, grad, config);
        call.give([dx]);
    });
    serve(registry, GLU, |call| {
        let [gate, up] = call.floats();
        let activation = call.one_of(&ACTIVATIONS);
        call.give([B::glu(gate, up, activation)]);
    });
    serve(registry, GLU_BACKWARD, |call| {
        let [gate, up, grad] = call.floats();
        let activation = call.one_of(&ACTIVATIONS);
        call.give(B::glu_backward(gate, up, grad, activation).into());
    });
    serve(registry, ROPE, |call| {
        let [x, cos, sin] = call.floats();
        let inverse = call.flag();
        call.give([B::rope(x, cos, sin, inverse)]);
    });
    serve(registry, ATTENTION, |call| {
        let [q, k, v] = call.floats();
        let (mask, config) = attention(call);
        call.give(B::causal_attention_forward(q, k, v, mask, config).into());
    });
    serve(registry, ATTENTION_BACKWARD, |call| {
        let [q, k, v, out, lse, grad] = call.floats();
        let (mask, config) = attention(call);
        let gradients = B::causal_attention_backward(q, k, v, mask, out, lse, grad, config);
        call.give(gradients.into());
    });
    serve(registry, CROSS_ENTROPY, |call| {
        let (hidden, weight, targets, config) = head(call);
        call.give([B::linear_cross_entropy(hidden, weight, targets, config)]);
    });
    serve(registry, CROSS_ENTROPY_GRAD_HIDDEN, |call| {
        let (hidden, weight, targets, config) = head(call);
        let results = B::linear_cross_entropy_grad_hidden(hidden, weight, targets, config);
        call.give(results.into());
    });
    serve(registry, CROSS_ENTROPY_GRADS, |call| {
        let (hidden, weight, targets, config) = head(call);
        let results = B::linear_cross_entropy_grads(hidden, weight, targets, config);
        call.give(results.into());
    });
    serve(registry, TOKEN_CROSS_ENTROPY, |call| {
        let (hidden, weight, targets, config) = head(call);
        call.give([B::token_cross_entropy(hidden, weight, targets, config)]);
    });
    serve(registry, TOKEN_CROSS_ENTROPY_GRAD_HIDDEN, |call| {
        let (hidden, weight, targets, config) = head(call);
        let results = B::token_cross_entropy_grad_hidden(hidden, weight, targets, config);
        call.give(results.into());
    });
    serve(registry, TOKEN_CROSS_ENTROPY_GRAD_WEIGHT, |call| {
        let (hidden, weight, targets, config) = head(call);
        let grad = call.float();
        let dw = B::token_cross_entropy_grad_weight(hidden, weight, targets, grad, config);
        call.give([dw]);
    });
    serve(registry, LORA_CROSS_ENTROPY, |call| {
        let ([hidden, weight, rows, factor], targets, config) = lora_head(call);
        let loss = B::lora_linear_cross_entropy(hidden, weight, rows, factor, targets, config);
        call.give([loss]);
    });
    serve(registry, LORA_CROSS_ENTROPY_GRADS, |call| {
        let ([hidden, weight, rows, factor], targets, config) = lora_head(call);
        let results =
            B::lora_linear_cross_entropy_grads(hidden, weight, rows, factor, targets, config);
        call.give(results.into());
    });
    serve(registry, LORA_TOKEN_CROSS_ENTROPY, |call| {
        let ([hidden, weight, rows, factor], targets, config) = lora_head(call);
        let losses = B::lora_token_cross_entropy(hidden, weight, rows, factor, targets, config);
        call.give([losses]);
    });
    serve(registry, LORA_TOKEN_CROSS_ENTROPY_GRAD_TOKENS, |call| {
        let ([hidden, weight, rows, factor], targets, config) = lora_head(call);
        let results =
            B::lora_token_cross_entropy_grad_tokens(hidden, weight, rows, factor, targets, config);
        call.give(results.into());
    });
    serve(registry, LORA_TOKEN_CROSS_ENTROPY_GRAD_FACTOR, |call| {
        let ([hidden, weight, rows, factor], targets, config) = lora_head(call);
        let grad = call.float();
        let dfactor = B::lora_token_cross_entropy_grad_factor(
            hidden, weight, rows, factor, targets, grad, config,
        );
        call.give([dfactor]);
    });
}
