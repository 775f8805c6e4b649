//! Memory that reading and writing take does not grow with the file, nor with what a file claims.

use std::fs;

use qlora_test_support::CountingAllocator;
use tensor_files::{AtomicFile, Dtype, TensorFile, TensorFileError, TensorSpool, TensorWriter};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const TENSORS: usize = 64;
const BYTES: usize = 1 << 20;

/// One test, since the counts are the process's.
#[test]
fn memory_does_not_grow_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..TENSORS)
        .map(|index| format!("tensor.{index}"))
        .collect();
    let values = vec![3; BYTES];

    let declared = dir.path().join("declared.safetensors");
    let peak = CountingAllocator::peak_during(|| {
        let tensors = names
            .iter()
            .map(|name| (name.clone(), Dtype::U8, vec![BYTES]));
        let file = AtomicFile::create(&declared).unwrap();
        let mut writer = TensorWriter::begin(file, None, tensors).unwrap();
        for name in &names {
            writer.write(name, &values).unwrap();
        }
        writer.finish().unwrap().commit().unwrap();
    });
    assert!(peak < 256 << 10, "{peak} bytes to write {TENSORS} MiB");

    // A buffer of 1 MiB for each width of element.
    let spooled = dir.path().join("spooled.safetensors");
    let peak = CountingAllocator::peak_during(|| {
        let mut spool = TensorSpool::new(&spooled);
        for (index, name) in names.iter().enumerate() {
            let (dtype, shape) = match index % 2 {
                0 => (Dtype::U8, vec![BYTES]),
                _ => (Dtype::F32, vec![BYTES / 4]),
            };
            spool.push(name, dtype, shape, &values).unwrap();
        }
        spool.finish(None).unwrap();
    });
    assert!(
        peak < (2 << 20) + (256 << 10),
        "{peak} bytes to spool {TENSORS} MiB"
    );

    // A tensor of 64 MiB, 1 MiB at a time.
    let large = dir.path().join("large.safetensors");
    let mut writer = TensorWriter::begin(
        AtomicFile::create(&large).unwrap(),
        None,
        [("a".to_owned(), Dtype::U8, vec![TENSORS * BYTES])],
    )
    .unwrap();
    for _ in 0..TENSORS {
        writer.write("a", &values).unwrap();
    }
    writer.finish().unwrap().commit().unwrap();
    let mut read = 0;
    let peak = CountingAllocator::peak_during(|| {
        let file = TensorFile::open(&large).unwrap();
        let stored = file.tensor("a").unwrap();
        stored
            .for_each_chunk(|chunk| {
                read += chunk.len();
                Ok::<_, TensorFileError>(())
            })
            .unwrap();
    });
    assert_eq!(read, TENSORS * BYTES);
    assert!(
        peak < BYTES + (64 << 10),
        "{peak} bytes to read {TENSORS} MiB"
    );

    // A header that claims far more than there is.
    let hostile = dir.path().join("hostile.safetensors");
    for claimed in [u64::MAX, 100_000_000, 1 << 20] {
        fs::write(&hostile, claimed.to_le_bytes()).unwrap();
        let peak = CountingAllocator::peak_during(|| {
            TensorFile::open(&hostile).unwrap_err();
        });
        assert!(
            peak < 4 << 10,
            "{peak} bytes for a header that claims {claimed}"
        );
    }
}
