//! A device that Burn has and these crates were built without: an error that names crate and feature, not a panic of the
//! dispatch. That is a build of its own, `cargo test -p burn-qlora --test unserved_devices`; with the feature on, as in a build of the
//! whole workspace, there is nothing to refuse.
#![cfg(not(feature = "flex"))]

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::nn::LinearConfig;
use burn::tensor::{Device, Tensor};
use burn_nf4::{BlockwiseTensor, BlockwiseTensorError};
use burn_paged::{PagedAdamWConfig, PagedError};
use burn_qlora::{QLoraLinear, QuantConfig};
use nf4::reference;

/// The sentence of a crate.
fn sentence(package: &str) -> String {
    format!(
        "{package} was built without the feature `flex`, which {:?} needs: turn it on in {package}, not in `burn` alone",
        Device::flex()
    )
}

/// What `work` panics with.
fn panicked(work: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(work)).expect_err("it should be refused");
    let text = panic.downcast_ref::<String>().cloned();
    text.expect("a formatted message")
}

#[test]
fn a_4_bit_tensor_is_refused_where_it_is_made_or_multiplied() {
    let dense = || Tensor::<2>::ones([8, 64], &Device::flex());
    let refused = BlockwiseTensor::quantize(dense(), QuantConfig::default());
    let error = refused.unwrap_err();
    assert!(
        matches!(error, BlockwiseTensorError::Device(_)),
        "{error:?}"
    );
    assert_eq!(error.to_string(), sentence("burn-nf4"));

    let matrix = reference::quantize(&[1.0; 8 * 64], [8, 64], QuantConfig::default()).unwrap();
    for device in [Device::flex(), Device::flex().autodiff()] {
        let weight = BlockwiseTensor::from_host(&matrix, &device);
        let error = weight.try_matmul(dense()).unwrap_err();
        assert_eq!(error.to_string(), sentence("burn-nf4"));
        let text = panicked(|| drop(weight.dequantize()));
        assert_eq!(text, sentence("burn-nf4"));
    }
}

#[test]
fn a_layer_is_refused_with_the_sentence_of_its_tensor() {
    let linear = LinearConfig::new(64, 8).init(&Device::flex().autodiff());
    let error = QLoraLinear::from_linear(linear, QuantConfig::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&sentence("burn-nf4")), "{text}");
}

#[test]
fn fused_operations_panic_with_their_name_and_the_feature() {
    let x = || Tensor::<2>::ones([2, 4], &Device::flex());
    let text = panicked(|| drop(burn_fused::swiglu(x(), x())));
    assert_eq!(text, format!("glu: {}", sentence("burn-fused")));
    let error = burn_fused::check_device(&Device::flex()).unwrap_err();
    assert_eq!(error.feature(), Some("flex"));
}

#[test]
fn the_paged_optimizer_refuses_a_step() {
    let optimizer = PagedAdamWConfig::new().build().unwrap();
    let x = || Tensor::<2>::ones([2, 4], &Device::flex());
    let error = optimizer.try_step(1e-3, x(), x(), None).unwrap_err();
    assert!(matches!(error, PagedError::Unserved(_)), "{error:?}");
    assert_eq!(error.to_string(), sentence("burn-paged"));
    // Nothing of it is kept: the optimizer serves another device.
    assert_eq!(optimizer.report().state_bytes, 0);
}
