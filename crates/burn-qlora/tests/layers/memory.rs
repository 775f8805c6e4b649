//! What quantizing a model takes, on the backend whose tensors lie in the process's own memory.

use burn::module::Module;
use burn::tensor::Device;
use burn_qlora::{AnyLinear, AnyLinearConfig, LoraModel, QuantConfig, Targets};
use burn_store::{ModuleSnapshot, SafetensorsStore};
use qlora_test_support::{CountingAllocator, assert_passed, in_own_process};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[derive(Module, LoraModel, Debug)]
struct Stack {
    layers: Vec<AnyLinear>,
}

const LAYERS: usize = 24;
const WIDTH: usize = 512;
/// Bytes of one layer's weight, dense and in f32.
const DENSE: usize = WIDTH * WIDTH * size_of::<f32>();
/// What quantizing a layer takes beside its weight: transposed, in f32, its scales, and what threads keep.
const WORKING: usize = 4 * DENSE;

fn stack() -> Stack {
    let config = AnyLinearConfig::new(WIDTH, WIDTH).with_bias(false);
    let layers = (0..LAYERS).map(|_| config.init(&Device::flex()));
    Stack {
        layers: layers.collect(),
    }
}

/// Returns the bytes held after `run`, and the most meanwhile, both beyond those held before.
fn bytes(run: impl FnOnce()) -> [isize; 2] {
    let before = CountingAllocator::held() as isize;
    let peak = CountingAllocator::peak_during(run) as isize;
    [CountingAllocator::held() as isize - before, peak]
}

fn quantize(stack: &mut Stack) -> [isize; 2] {
    bytes(|| stack.quantize(&QuantConfig::default()).unwrap())
}

#[test]
fn quantizing_frees_each_dense_weight_before_the_next_is_touched() {
    assert_passed(&in_own_process("memory::child", &[]));
}

/// The test itself: what other tests take would be counted.
#[test]
#[ignore = "runs in a process of its own"]
fn child() {
    quantize(&mut Stack {
        layers: vec![AnyLinearConfig::new(WIDTH, WIDTH).init(&Device::flex())],
    });
    // 4.127 bits of 32.
    let quantized = LAYERS * DENSE / 7;

    let mut stack = self::stack();
    for layer in &stack.layers {
        let AnyLinear::Dense(linear) = layer else {
            panic!("the layer should be dense");
        };
        drop(linear.weight.val());
    }
    let [held, peak] = quantize(&mut stack);
    let freed = (LAYERS * DENSE - quantized) as isize;
    assert!(held < -freed, "{held} held beyond the dense weights");
    assert!(peak < (DENSE / 7 + WORKING) as isize, "{peak} more at once");

    // Parameters that were not asked for before come into being one by one.
    let [held, peak] = quantize(&mut self::stack());
    assert!(held < quantized as isize, "{held} held");
    assert!(
        peak < (quantized + DENSE + WORKING) as isize,
        "{peak} at once"
    );

    // A checkpoint that is read a layer at a time is in memory a layer at a time.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stack.safetensors");
    self::stack()
        .save_into(&mut SafetensorsStore::from_file(&path))
        .unwrap();
    let mut stack = self::stack();
    let [held, peak] = bytes(|| {
        for layer in 0..LAYERS {
            let name = format!("layers.{layer}");
            let mut store = SafetensorsStore::from_file(&path)
                .with_full_path(format!("{name}.weight"))
                .allow_partial(true);
            let read = stack.load_from(&mut store).unwrap();
            assert_eq!(read.applied.len(), 1);
            stack
                .quantize_targets(&Targets::Names(vec![name]), &QuantConfig::default())
                .unwrap();
        }
    });
    assert!(held < quantized as isize, "{held} held");
    assert!(
        peak < (quantized + DENSE + WORKING) as isize,
        "{peak} at once"
    );
}
