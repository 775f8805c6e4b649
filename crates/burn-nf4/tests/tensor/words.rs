//! The words as tensors: nothing that a module does to its parameters may change them.

use burn_core as burn;
use burn_core::module::{Module, Param, ParamId};
use burn_core::store::ModuleRecord;
use burn_core::tensor::{DType, Int, Tensor};
use burn_nf4::{BlockwiseTensor, BlockwiseTensorError, QuantConfig};

use crate::support::{TestDevice, random_matrix};

#[derive(Module, Debug)]
struct Holder {
    packed: Param<Tensor<1, Int>>,
    absmax: Param<Tensor<1, Int>>,
}

pub fn survive_devices_parameters_and_records(test: &TestDevice) {
    let (matrix, _) = random_matrix(91, [33, 72], QuantConfig::default());
    // Words with the top bit set are where a detour over i32 or floats would show.
    assert!(matrix.packed().iter().any(|word| *word > i32::MAX as u32));
    let layout = matrix.layout();
    let weight = BlockwiseTensor::from_host(&matrix, &test.device).to_device(&test.device);
    let (packed, absmax, _) = weight.into_parts();
    assert_eq!((packed.dtype(), absmax.dtype()), (DType::U32, DType::U32));

    let holder = Holder {
        packed: Param::initialized(ParamId::new(), packed),
        absmax: Param::initialized(ParamId::new(), absmax),
    };
    let holder = holder.to_device(&test.device).no_grad();
    let bytes = holder.clone().into_record().into_bytes().expect("a record");
    let record = ModuleRecord::from_bytes(bytes).expect("the record again");
    let blank = Holder {
        packed: Param::initialized(
            ParamId::new(),
            Tensor::zeros([layout.packed_words()], (&test.device, DType::U32)),
        ),
        absmax: Param::initialized(
            ParamId::new(),
            Tensor::zeros([layout.absmax_words()], (&test.device, DType::U32)),
        ),
    };
    for holder in [holder, blank.load_record(record)] {
        let weight =
            BlockwiseTensor::from_parts(holder.packed.val(), holder.absmax.val(), layout).unwrap();
        assert_eq!(weight.into_host().unwrap(), matrix);
    }
}

pub fn of_another_layout_are_refused(test: &TestDevice) {
    let (matrix, _) = random_matrix(92, [16, 64], QuantConfig::default());
    let (packed, absmax, layout) = BlockwiseTensor::from_host(&matrix, &test.device).into_parts();
    let error = BlockwiseTensor::from_parts(absmax.clone(), packed.clone(), layout).unwrap_err();
    assert!(
        matches!(error, BlockwiseTensorError::Words { part: "packed", .. }),
        "{error}"
    );
    let signed = Tensor::zeros([layout.packed_words()], (&test.device, DType::I32));
    let error = BlockwiseTensor::from_parts(signed, absmax, layout).unwrap_err();
    assert!(
        matches!(
            error,
            BlockwiseTensorError::Words {
                dtype: DType::I32,
                ..
            }
        ),
        "{error}"
    );
}
