//! A file is read at any position, and not beyond its end.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use tensor_files::{InputFile, Malformation, TensorFileError};

#[test]
fn positions_are_checked_before_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"0123456789").unwrap();
    let input = InputFile::open(&path).unwrap();
    assert_eq!((input.len(), input.is_empty()), (10, false));
    assert_eq!(input.path(), path);
    let mut buffer = [0; 4];
    for (offset, expected) in [(6, b"6789"), (0, b"0123"), (3, b"3456")] {
        input.read_at(offset, &mut buffer).unwrap();
        assert_eq!(&buffer, expected);
    }
    input.read_at(10, &mut []).unwrap();
    for offset in [7, 10, 11, u64::MAX - 3, u64::MAX] {
        let error = input.read_at(offset, &mut buffer).unwrap_err();
        let TensorFileError::Malformed { fault, .. } = error else {
            panic!("not a malformation: {error}");
        };
        let expected = Malformation::Truncated {
            offset,
            expected: 4,
            len: 10,
        };
        assert_eq!(*fault, expected);
    }
}

#[test]
fn a_reader_goes_on_where_it_is_and_ends_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"0123456789").unwrap();
    let input = InputFile::open(&path).unwrap();
    let mut reader = input.reader();
    let mut text = String::new();
    assert_eq!(reader.read_to_string(&mut text).unwrap(), 10);
    assert_eq!(text, "0123456789");
    for (to, left) in [
        (SeekFrom::Start(8), "89"),
        (SeekFrom::End(-3), "789"),
        (SeekFrom::Current(-1), "9"),
        (SeekFrom::Start(1 << 40), ""),
    ] {
        reader.seek(to).unwrap();
        text.clear();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, left);
    }
    assert!(reader.seek(SeekFrom::End(-11)).is_err());
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_without_waiting_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    for path in [&pipe, dir.path(), "/dev/zero".as_ref()] {
        let error = InputFile::open(path).unwrap_err();
        assert!(
            matches!(&error, TensorFileError::Malformed { fault, .. } if **fault == Malformation::NotRegular),
            "{error}"
        );
    }
}
