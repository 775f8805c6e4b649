//! Files that are written are read back as they were, by this crate and by the safetensors crate.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use tensor_files::{AtomicFile, Dtype, TensorFile, TensorFileError, TensorSpool, TensorWriter};

/// Name, element type, shape and bytes of tensors, wide elements first.
fn tensors() -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
    [
        ("count", Dtype::I64, vec![1]),
        ("matrix", Dtype::F32, vec![3, 5]),
        ("nothing", Dtype::F32, vec![0, 7]),
        ("scalar", Dtype::F32, vec![]),
        ("half", Dtype::BF16, vec![9]),
        ("codes", Dtype::U8, vec![2, 3, 1]),
        ("nibbles", Dtype::F4, vec![6]),
    ]
    .into_iter()
    .map(|(name, dtype, shape)| {
        let bits = shape.iter().product::<usize>() * dtype.bitsize();
        let bytes = (0..bits / 8).map(|byte| byte as u8 ^ name.as_bytes()[0]);
        (name.to_owned(), dtype, shape, bytes.collect())
    })
    .collect()
}

fn metadata() -> Option<HashMap<String, String>> {
    Some(HashMap::from([("format".to_owned(), "pt".to_owned())]))
}

fn assert_reads_back(path: &Path) {
    let file = TensorFile::open(path).unwrap();
    let bytes = fs::read(path).unwrap();
    let peer = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.metadata(), metadata().as_ref());
    assert_eq!(file.len(), tensors().len());
    assert_eq!(peer.len(), tensors().len());
    for (name, dtype, shape, bytes) in tensors() {
        let stored = file.tensor(&name).unwrap();
        assert_eq!((stored.name(), stored.dtype()), (name.as_str(), dtype));
        assert_eq!(
            (stored.shape(), stored.byte_len()),
            (&shape[..], bytes.len())
        );
        assert_eq!(stored.read().unwrap(), bytes);
        let mut chunks = Vec::new();
        stored
            .for_each_chunk(|chunk| {
                chunks.extend_from_slice(chunk);
                Ok::<_, TensorFileError>(())
            })
            .unwrap();
        assert_eq!(chunks, bytes);
        let peer = peer.tensor(&name).unwrap();
        assert_eq!(
            (peer.dtype(), peer.shape(), peer.data()),
            (dtype, &shape[..], &bytes[..])
        );
    }
    assert!(file.tensor("other").is_none());
}

fn declared() -> Vec<(String, Dtype, Vec<usize>)> {
    let declare = |(name, dtype, shape, _)| (name, dtype, shape);
    tensors().into_iter().map(declare).collect()
}

fn writer(path: &Path) -> TensorWriter {
    let file = AtomicFile::create(path).unwrap();
    TensorWriter::begin(file, metadata(), declared()).unwrap()
}

#[test]
fn declared_tensors_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("declared.safetensors");
    let mut writer = writer(&path);
    for (name, _, _, bytes) in tensors() {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        writer.write(&name, first).unwrap();
        writer.write(&name, second).unwrap();
    }
    writer.finish().unwrap().commit().unwrap();
    assert_reads_back(&path);
}

#[test]
fn spooled_tensors_come_back_widest_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spooled.safetensors");
    let mut spool = TensorSpool::new(&path);
    for (name, dtype, shape, bytes) in tensors().into_iter().rev() {
        spool.push(name, dtype, shape, &bytes).unwrap();
    }
    spool.finish(metadata()).unwrap();
    assert_reads_back(&path);
    let file = TensorFile::open(&path).unwrap();
    let widths: Vec<_> = file
        .names()
        .map(|name| file.tensor(name).unwrap().dtype().bitsize().max(8))
        .collect();
    assert!(widths.is_sorted_by(|a, b| a >= b), "{widths:?}");
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "parts are left behind");
}

/// Torch reads values in place and wants them aligned, so they begin at a multiple of 8.
#[test]
fn values_begin_aligned() {
    let dir = tempfile::tempdir().unwrap();
    for length in 1..10 {
        let path = dir.path().join("aligned.safetensors");
        let mut spool = TensorSpool::new(&path);
        spool
            .push("n".repeat(length), Dtype::U8, vec![1], &[7])
            .unwrap();
        spool.finish(None).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len() - 1) % 8, 0);
        assert_eq!(TensorFile::open(&path).unwrap().metadata(), None);
    }
}

#[test]
fn the_use_of_a_chunk_may_fail_with_an_error_of_its_own() {
    #[derive(Debug)]
    enum Failure {
        File,
        Mine,
    }
    impl From<TensorFileError> for Failure {
        fn from(_: TensorFileError) -> Self {
            Self::File
        }
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.safetensors");
    let mut spool = TensorSpool::new(&path);
    spool
        .push("a", Dtype::U8, vec![3 << 20], &vec![1; 3 << 20])
        .unwrap();
    spool.finish(None).unwrap();
    let file = TensorFile::open(&path).unwrap();
    let stored = file.tensor("a").unwrap();
    let mut chunks = 0;
    let failed = stored.for_each_chunk(|_| {
        chunks += 1;
        if chunks == 2 {
            Err(Failure::Mine)
        } else {
            Ok(())
        }
    });
    assert!(matches!(failed, Err(Failure::Mine)));
    // Cut off behind the reader's back.
    fs::write(&path, fs::read(&path).unwrap().split_off(1 << 20)).unwrap();
    let failed = stored.for_each_chunk(|_| Ok(()));
    assert!(matches!(failed, Err(Failure::File)));
}

#[test]
fn what_is_written_out_of_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.safetensors");
    let mut writer = writer(&path);
    let error = writer.write("other", &[1]).unwrap_err();
    assert!(matches!(&error, TensorFileError::Undeclared { tensor, .. } if tensor == "other"));
    writer.write("count", &[0; 7]).unwrap();
    for (name, bytes) in [("count", 2), ("matrix", 4)] {
        let error = writer.write(name, &vec![0; bytes]).unwrap_err();
        assert!(
            matches!(&error, TensorFileError::OutOfPlace { tensor, position: 7, .. } if tensor == name)
        );
        assert!(error.to_string().contains("file.safetensors"), "{error}");
    }
    let error = writer.finish().unwrap_err();
    assert!(
        matches!(error, TensorFileError::Unfinished { written: 7, .. }),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let mut spool = TensorSpool::new(&path);
    let error = spool.push("a", Dtype::F32, vec![2], &[0; 7]).unwrap_err();
    assert!(matches!(
        error,
        TensorFileError::BufferLength {
            expected: 8,
            found: 7,
            ..
        }
    ));
    spool.push("a", Dtype::F32, vec![1], &[0; 4]).unwrap();
    spool.push("a", Dtype::U8, vec![1], &[0]).unwrap();
    let error = spool.finish(None).unwrap_err();
    assert!(error.to_string().contains("`a` is in it twice"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.safetensors");
    let mut spool = TensorSpool::new(&path);
    spool.push("a", Dtype::F32, vec![2], &[5; 8]).unwrap();
    spool.finish(None).unwrap();
    let file = TensorFile::open(&path).unwrap();
    for length in [0, 7, 9] {
        let error = file
            .tensor("a")
            .unwrap()
            .read_into(&mut vec![0; length])
            .unwrap_err();
        assert!(
            matches!(error, TensorFileError::BufferLength { expected: 8, found, .. } if found == length)
        );
    }
}
