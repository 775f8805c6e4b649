use std::path::Path;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A text that is learnt whole.
    Text,
    /// Objects in JSON.
    Json,
    /// A table of texts, its cells divided by this character; a comma may turn out a semicolon.
    Delimited(u8),
    /// Apache Parquet.
    Parquet,
    /// Another file in gzip.
    Gzip,
    /// Another file in zstd.
    Zstd,
}

/// The formats, for people.
pub const READ: &str = "data is read from .jsonl, .json, .csv, .tsv, .parquet and .txt files, and from these in .gz or .zst";

/// What a file begins with, and what it is then.
const NOT_READ: [(&[u8], &str); 21] = [
    (b"PARE", "an encrypted Parquet file"),
    (
        b"ARROW1",
        "an Arrow file (Feather); write it as Parquet, with pyarrow or datasets' to_parquet",
    ),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream, as datasets' save_to_disk writes it; write it as Parquet, with datasets' to_parquet",
    ),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"%PDF", "a PDF; write its text to a .txt file"),
    (
        b"BZh",
        "compressed with bzip2; unpack it, or compress it with gzip",
    ),
    (
        b"\xfd7zXZ",
        "compressed with xz; unpack it, or compress it with gzip",
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (
        b"\x04\x22\x4d\x18",
        "compressed with LZ4; unpack it, or compress it with zstd",
    ),
    (
        b"SQLite format 3",
        "an SQLite database; export its table as CSV",
    ),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file; write it as Parquet"),
    (b"GGUF", "a model in GGUF, not data"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (
        b"\xd0\xcf\x11\xe0",
        "a document of Microsoft Office; save it as CSV",
    ),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file itself; fetch that with `git lfs pull`",
    ),
    (
        b"{\\rtf",
        "a document in RTF; write its text to a .txt file",
    ),
];

/// Endings of files that are texts, but not data as it stands.
const TEXTS: [&str; 16] = [
    "md", "markdown", "rst", "tex", "html", "htm", "xml", "yaml", "yml", "toml", "ini", "log",
    "srt", "py", "rs", "sql",
];

/// Endings of files that are told by their content too, for folders.
const READ_ENDINGS: [&str; 9] = [
    "jsonl", "ndjson", "json", "csv", "tsv", "tab", "txt", "parquet", "pq",
];

/// Endings of files of other programs that are named by them.
const OTHERS: [(&str, &str); 9] = [
    ("xlsx", "an Excel workbook; save it as CSV"),
    ("xls", "an Excel workbook; save it as CSV"),
    ("ods", "a spreadsheet; save it as CSV"),
    ("docx", "a Word document; save it as text (.txt)"),
    (
        "arrow",
        "an Arrow file; write it as Parquet, with datasets' to_parquet",
    ),
    ("feather", "an Arrow file (Feather); write it as Parquet"),
    ("pkl", "a pickle; write it as JSONL or Parquet"),
    ("npz", "an archive of NumPy arrays"),
    ("tar", "a tar archive; unpack it"),
];

/// Returns what a file is, by its first bytes and its name.
///
/// # Errors
/// Why it is not read.
pub fn format(name: &str, head: &[u8]) -> Result<Format, String> {
    let ending = ending(name);
    if head.starts_with(b"\x1f\x8b") {
        return Ok(Format::Gzip);
    }
    if is_zstd(head) {
        return Ok(Format::Zstd);
    }
    if head.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    let refused = |what: &str| Err(format!("this is {what}; {READ}"));
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) || is_utf16(head) {
        return Err("the text is in UTF-16, not UTF-8; save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)".to_owned());
    }
    if let Some((_, what)) = OTHERS.iter().find(|(known, _)| *known == ending) {
        return refused(what);
    }
    if let Some((_, what)) = NOT_READ.iter().find(|(start, _)| head.starts_with(start)) {
        return refused(what);
    }
    if head.get(257..262) == Some(b"ustar") {
        return refused("a tar archive; unpack it");
    }
    if ending != "txt" && is_web_page(head) {
        return refused("a web page, not the file that was to be downloaded from it");
    }
    match ending.as_str() {
        "txt" => Ok(Format::Text),
        "csv" => Ok(Format::Delimited(b',')),
        "tsv" | "tab" => Ok(Format::Delimited(b'\t')),
        "jsonl" | "ndjson" | "json" => Ok(Format::Json),
        "parquet" | "pq" if head.is_empty() => Err("the file is empty".to_owned()),
        "parquet" | "pq" => Err("this is no Parquet file: it does not begin with PAR1".to_owned()),
        text if TEXTS.contains(&text) => Err(format!(
            "a .{text} file is not read; rename it to .txt to learn it as one text, or write rows to a .jsonl file ({READ})"
        )),
        _ if head.is_empty() => Err("the file is empty".to_owned()),
        _ => match first_letter(head) {
            Some(b'{' | b'[') => Ok(Format::Json),
            _ => Err(format!(
                "neither its name nor its content tells what it holds; {READ}"
            )),
        },
    }
}

/// Files of the library datasets beside its data.
const DESCRIPTIONS: [&str; 5] = [
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
];

/// Returns whether a file of a folder is read, by its name or path: one of data in a format that is, in gzip or zstd too.
pub fn is_read(name: &str) -> bool {
    if DESCRIPTIONS.contains(&name.rsplit('/').next().unwrap_or(name)) {
        return false;
    }
    let inner = uncompressed(name);
    READ_ENDINGS.contains(&ending(inner).as_str())
}

/// Returns the name of what is in a compressed file.
pub fn uncompressed(name: &str) -> &str {
    let path = Path::new(name);
    let is_outer = ["gz", "gzip", "zst", "zstd"].contains(&ending(name).as_str());
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some(stem) if is_outer => stem,
        _ if ending(name) == "tgz" => "packed.tar",
        _ => name,
    }
}

fn ending(name: &str) -> String {
    let extension = Path::new(name).extension().unwrap_or_default();
    extension.to_string_lossy().to_ascii_lowercase()
}

/// Returns whether the bytes begin a frame of zstd, or one that its readers skip.
fn is_zstd(head: &[u8]) -> bool {
    head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Returns whether every other byte is zero, as in English in UTF-16 without a mark.
fn is_utf16(head: &[u8]) -> bool {
    let pairs = head.len().min(64) / 2;
    let zero = |at: usize| (0..pairs).all(|pair| head[2 * pair + at] == 0);
    let letter = |at: usize| (0..pairs).all(|pair| head[2 * pair + at] != 0);
    pairs >= 2 && (zero(1) && letter(0) || zero(0) && letter(1))
}

fn is_web_page(head: &[u8]) -> bool {
    let start = head.trim_ascii_start();
    ["<!doctype html", "<html"].iter().any(|tag| {
        start
            .get(..tag.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(tag.as_bytes()))
    })
}

fn first_letter(head: &[u8]) -> Option<u8> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    head.trim_ascii_start().first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_before_the_name_where_it_tells() {
        for (name, head, expected) in [
            ("rows.jsonl", &b"\x1f\x8b\x08"[..], Format::Gzip),
            ("rows.gz", b"{\"text\"", Format::Json),
            ("rows", b"\xef\xbb\xbf\n [", Format::Json),
            ("rows.TXT", b"{", Format::Text),
            ("rows.csv", b"a,b", Format::Delimited(b',')),
            ("x.json", b"PAR1\x15", Format::Parquet),
            ("x", b"\x28\xb5\x2f\xfd", Format::Zstd),
            ("x", b"\x52\x2a\x4d\x18", Format::Zstd),
        ] {
            assert_eq!(format(name, head), Ok(expected), "{name}");
        }
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (name, head, expected) in [
            ("a.xlsx", &b"PK\x03\x04"[..], "Excel"),
            ("a.zip", b"PK\x03\x04", "zip archive"),
            ("a.json", b"ARROW1", "Arrow"),
            ("a.md", b"# {", ".txt"),
            ("a.jsonl", b"<!DOCTYPE html><html>", "web page"),
            ("a.jsonl", b"{\0\"\0t\0", "UTF-16"),
            (
                "a.jsonl",
                b"version https://git-lfs.github.com/spec/v1",
                "git lfs pull",
            ),
            ("a", b"hello", ".jsonl"),
            ("a.parquet", b"hello", "PAR1"),
        ] {
            let error = format(name, head).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let mut tar = [0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(format("a.jsonl", &tar).unwrap_err().contains("tar archive"));
    }

    #[test]
    fn names_of_folders_are_told() {
        for name in ["a.jsonl", "a.csv.gz", "a.parquet", "a.JSON.ZST", "a.txt"] {
            assert!(is_read(name), "{name}");
        }
        for name in [
            "README.md",
            "a",
            "a.gz",
            "a.zip",
            "jsonl",
            "data/dataset_infos.json",
        ] {
            assert!(!is_read(name), "{name}");
        }
    }
}
