//! Files that are truncated, damaged or lie: each is refused with the malformation it has, named with file and
//! tensor, before memory is taken for what it claims.

use std::fs;
use std::path::PathBuf;

use tensor_files::{Malformation, TensorFile, TensorFileError};

/// A file with this header and this many bytes of values.
fn file(header: &str, values: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + values, 0);
    bytes
}

/// Returns the reason for which a file of these bytes is refused.
#[track_caller]
fn refused(bytes: &[u8]) -> Malformation {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.safetensors");
    fs::write(&path, bytes).unwrap();
    let error = TensorFile::open(&path).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("hostile.safetensors"), "{message}");
    assert!(!message.contains('\n'), "one line: {message}");
    match error {
        TensorFileError::Malformed { path: named, fault } if named == path => *fault,
        other => panic!("not a malformation: {other}"),
    }
}

fn entry(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{offsets}]}}"#)
}

/// A header with a sound tensor `a` of 8 bytes and `entry` as `b`.
fn beside_sound(entry: &str) -> String {
    format!(r#"{{"a":{},"b":{entry}}}"#, self::entry("F32", "2", "0,8"))
}

macro_rules! assert_fault {
    ($bytes:expr, $pattern:pat $(if $guard:expr)?) => {{
        let fault = refused(&$bytes);
        assert!(matches!(&fault, $pattern $(if $guard)?), "{fault:?}");
    }};
}

#[test]
fn a_sound_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sound.safetensors");
    for (header, values, tensors) in [
        (beside_sound(&entry("U8", "2,2", "8,12")), 12, 2),
        // Headers of other writers: in another order, with null for no metadata, filled up, with keys of their own.
        (
            format!(
                r#"{{"b":{},"a":{}}}  "#,
                entry("F4", "4", "8,10"),
                entry("I64", "1", "0,8")
            ),
            10,
            2,
        ),
        (
            r#"{"__metadata__":null,"a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"by":"me"}}"#
                .into(),
            1,
            1,
        ),
        ("{}".into(), 0, 0),
    ] {
        fs::write(&path, file(&header, values)).unwrap();
        assert_eq!(TensorFile::open(&path).unwrap().len(), tensors, "{header}");
    }
}

#[test]
fn a_file_is_refused_wherever_it_is_cut() {
    let whole = file(&beside_sound(&entry("U8", "4", "8,12")), 12);
    for length in 0..whole.len() {
        match refused(&whole[..length]) {
            Malformation::Truncated {
                offset: 0,
                expected: 8,
                len,
            } => assert_eq!(len, length as u64),
            Malformation::HeaderLength { len, .. } => {
                assert!((8..whole.len() as u64 - 12).contains(&len))
            }
            Malformation::DataLength { described, len } => {
                assert_eq!((described, len), (whole.len() as u128, length as u64));
            }
            other => panic!("cut at {length}: {other}"),
        }
    }
    let longer = [&whole[..], &[0]].concat();
    assert_fault!(longer, Malformation::DataLength { len, .. } if *len == longer.len() as u64);
}

#[test]
fn a_header_longer_than_the_file_or_the_format_is_refused() {
    for claimed in [u64::MAX, u64::MAX - 7, 1 << 40, 100_000_001, 100_000_000, 3] {
        let bytes = [&claimed.to_le_bytes()[..], b"{}"].concat();
        assert_fault!(bytes, Malformation::HeaderLength { claimed: named, len: 10 } if *named == claimed);
    }
}

#[test]
fn a_header_that_is_no_map_of_tensors_is_refused() {
    let missing = [
        r#"{"a":{"shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1]}}"#,
    ];
    let wrong = [
        "",
        "{",
        "[]",
        "null",
        r#"{"a":1}"#,
        r#"{"a":null}"#,
        r#"{"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551616]}}"#,
        r#"{"__metadata__":{"format":1}}"#,
        r#"{"__metadata__":{},"__metadata__":{}}"#,
        r#"{} {}"#,
    ];
    for header in missing.into_iter().chain(wrong) {
        assert_fault!(file(header, 1), Malformation::HeaderJson { .. });
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_fault!(file(&nested, 0), Malformation::HeaderJson { .. });
    let not_utf8 = [&2u64.to_le_bytes()[..], b"{\xff"].concat();
    assert_fault!(not_utf8, Malformation::HeaderJson { .. });
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    for (first, second) in [("0,4", "4,8"), ("0,4", "0,4")] {
        let header = format!(
            r#"{{"a":{},"a":{}}}"#,
            entry("F32", "1", first),
            entry("F32", "1", second)
        );
        assert_fault!(file(&header, 8), Malformation::DuplicateTensor { tensor } if tensor == "a");
    }
}

#[test]
fn each_lie_about_a_tensor_is_refused_by_its_name() {
    let max = usize::MAX;
    let attack = |dtype: &str, shape: &str, offsets: &str| {
        let fault = refused(&file(&beside_sound(&entry(dtype, shape, offsets)), 16));
        assert!(fault.to_string().contains("`b`"), "{fault}");
        fault
    };
    macro_rules! assert_attack {
        ($dtype:expr, $shape:expr, $offsets:expr => $pattern:pat) => {
            let fault = attack($dtype, $shape, $offsets);
            assert!(matches!(fault, $pattern), "{fault:?}");
        };
    }
    use Malformation::*;
    assert_attack!("NEW9", "8", "8,16" => UnknownDtype { .. });
    assert_attack!("u8", "8", "8,16" => UnknownDtype { .. });
    assert_attack!("U8", "8", "16,8" => ReversedOffsets { begin: 16, end: 8, .. });
    assert_attack!("U8", "12", "4,16" => Overlap { begin: 4, previous_end: 8, .. });
    assert_attack!("U8", "9", "0,9" => Overlap { begin: 0, previous_end: 8, .. });
    assert_attack!("U8", "7", "9,16" => Gap { begin: 9, previous_end: 8, .. });
    assert_attack!("U8", "7", "8,16" => TensorSize { begin: 8, expected: 7, found: 8, .. });
    assert_attack!("F32", "1", "8,16" => TensorSize { expected: 4, found: 8, .. });
    assert_attack!("U8", "0", "8,16" => TensorSize { expected: 0, found: 8, .. });
    assert_attack!("U8", "1", &format!("8,{max}") => TensorSize { expected: 1, .. });
    assert_attack!("U8", &format!("{max}"), "8,16" => ShapeOverflow { .. });
    assert_attack!("U8", &format!("{},2", max / 8), "8,16" => ShapeOverflow { .. });
    assert_attack!("F4", "15", "8,16" => PartialByte { .. });
    assert_attack!("F6_E2M3", "3", "8,11" => PartialByte { .. });
}

#[test]
fn a_tensor_beyond_the_end_of_the_file_is_refused() {
    let elements = usize::MAX / 8 - 1;
    let header = format!(
        r#"{{"a":{}}}"#,
        entry("U8", &elements.to_string(), &format!("0,{elements}"))
    );
    assert_fault!(file(&header, 16), Malformation::DataLength { described, .. } if *described > elements as u128);
}

#[test]
fn folders_and_missing_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = TensorFile::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, TensorFileError::Malformed { fault, .. } if **fault == Malformation::NotRegular),
        "{error}"
    );
    let missing: PathBuf = dir.path().join("missing.safetensors");
    let error = TensorFile::open(&missing).unwrap_err();
    assert!(
        matches!(&error, TensorFileError::Read { path, .. } if *path == missing),
        "{error}"
    );
}

/// Not a fuzzer, but what one would try first: thousands of files that differ from a sound one in a few bytes.
#[test]
fn what_a_damaged_file_is_opened_with_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.safetensors");
    let sound = file(&beside_sound(&entry("U8", "4", "8,12")), 12);
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut opened = 0;
    for _ in 0..5000 {
        let mut bytes = sound.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = match random(3) {
                0 => bytes[at] ^ (1 << random(8)),
                1 => b"0123456789,:[]{}\"\\-e"[random(20)],
                _ => random(256) as u8,
            };
        }
        fs::write(&path, bytes).unwrap();
        let Ok(file) = TensorFile::open(&path) else {
            continue;
        };
        opened += 1;
        let read: usize = file
            .names()
            .map(|name| file.tensor(name).unwrap().read().unwrap().len())
            .sum();
        assert_eq!(read, 12);
    }
    assert!((1..5000).contains(&opened), "{opened} of 5000 were opened");
}

#[test]
fn other_files_under_the_name_are_recognized() {
    for (bytes, words) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"[..],
            "git lfs pull",
        ),
        (
            b"<!DOCTYPE html><html><body>Sign in</body></html>",
            "web page",
        ),
        (b"PK\x03\x04\0\0\x08\x08 archive/data.pkl", "PyTorch"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "PyTorch"),
        (b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0", "GGUF"),
        (b"{\"weight_map\": {\"a\": \"b.safetensors\"}}", "JSON"),
    ] {
        let fault = refused(bytes);
        assert!(
            matches!(&fault, Malformation::AnotherFormat { what } if what.contains(words)),
            "{fault:?}"
        );
    }
    // A header as long as the bytes that a pickle begins with is one.
    let header = format!("{:<640}", beside_sound(&entry("U8", "2,2", "8,12")));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sound.safetensors");
    fs::write(&path, file(&header, 12)).unwrap();
    assert_eq!(TensorFile::open(&path).unwrap().len(), 2);
    assert_eq!(
        tensor_files::recognize(&file(&header, 12)[..24]),
        Some("a safetensors file")
    );
}
