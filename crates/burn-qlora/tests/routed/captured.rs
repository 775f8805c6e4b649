//! What a capture records of the layers, and that another backend computes the same from it.

use std::collections::HashMap;

use burn::backend::Capture;
use burn::backend::ir::{OperationIr, TensorId, TensorIr, TensorStatus};
use burn::tensor::{Device, Tensor};
use burn_nf4::{BlockwiseTensor, BlockwiseTensorError};
use burn_qlora::QuantConfig;
use burn_router::TensorInterpreter;
use qlora_test_support::block_on;

use crate::here::{device, operations};
use crate::parts::parts;
use crate::step::{Case, Named, bits, cases, forward};

/// Records what `work` computes, has it run here, and holds it to what `work` computes here.
fn compare(case: Case, work: impl Fn(Case, &Device) -> Named<1>) {
    let capture = Device::capture();
    let mut recorded = Vec::new();
    let captured = capture.capture_scope(|scope| {
        // They are held, so that the graph does not end with their being dropped.
        recorded = work(case, &capture);
        let ids: Vec<_> = recorded.iter().map(|(_, values)| id(values)).collect();
        scope.complete([], ids)
    });
    let captured = captured.unwrap();

    let mut interpreter = TensorInterpreter::with_custom_ops(Default::default(), operations());
    for (id, data) in captured.values {
        interpreter.register_tensor_data_id(id, data);
    }
    let mut results = HashMap::<TensorId, TensorIr>::new();
    for operation in captured.graph.operations {
        results.extend(operation.outputs().map(|it| (it.id, it.clone())));
        interpreter.register_op(operation);
    }

    let expected = work(case, &device());
    assert_eq!(recorded.len(), expected.len());
    for ((id, (name, recorded)), (_, expected)) in captured
        .graph
        .outputs
        .into_iter()
        .zip(recorded)
        .zip(expected)
    {
        let result = TensorIr {
            status: TensorStatus::ReadOnly,
            ..results[&id].clone()
        };
        let there = block_on(interpreter.read_tensor_async(result)).unwrap();
        let expected = bits(&expected.clone(), expected.into_data());
        assert!(expected.iter().any(|bits| *bits != 0), "{name}");
        assert_eq!(bits(&recorded, there), expected, "{case:?}: {name}");
    }
}

fn id(values: &Tensor<1>) -> TensorId {
    let primitive = values.clone().try_into_primitive::<Capture>();
    primitive.unwrap().id()
}

#[test]
fn a_captured_pass_computes_the_bits_of_one_here() {
    for case in cases() {
        compare(case, |case, device| vec![("loss", forward(case, device).0)]);
    }
}

#[test]
fn captured_parts_of_backward_passes_compute_the_bits_of_those_here() {
    for case in cases() {
        compare(case, parts);
    }
}

#[test]
fn a_layer_is_one_operation_of_a_graph() {
    let capture = Device::capture();
    let captured = capture.capture_scope(|scope| {
        cases()
            .take(1)
            .for_each(|case| drop(forward(case, &capture)));
        scope.complete([], [])
    });
    let mut counts = HashMap::<String, usize>::new();
    for operation in captured.unwrap().graph.operations {
        if let OperationIr::Custom(custom) = operation {
            *counts.entry(custom.id).or_default() += 1;
        }
    }
    for (id, count) in [
        ("burn_nf4::lora_matmul", 2),
        ("burn_nf4::matmul", 1),
        ("burn_fused::glu", 2),
        ("burn_fused::causal_attention", 1),
        ("burn_fused::lora_linear_cross_entropy", 1),
    ] {
        assert_eq!(counts.get(id), Some(&count), "{id} of {counts:?}");
    }
}

#[test]
fn what_looks_at_values_is_refused_by_a_capture() {
    let capture = Device::capture();
    let mut refused = None;
    let captured = capture.capture_scope(|scope| {
        let dense = Tensor::<2>::ones([8, 64], &capture);
        refused = Some(BlockwiseTensor::quantize(dense, QuantConfig::default()));
        scope.complete([], [])
    });
    captured.unwrap();
    let error = refused.unwrap().unwrap_err();
    assert!(
        matches!(error, BlockwiseTensorError::Read { .. }),
        "{error:?}"
    );
}
