//! Files that are something else than their names say.

/// Beginnings of files, and what such files are.
const KNOWN: [(&[u8], &str); 17] = [
    (
        b"version https://git-lfs",
        "a Git LFS pointer in place of the file; fetch it with git lfs pull",
    ),
    (b"<!DO", WEB_PAGE),
    (b"<!do", WEB_PAGE),
    (b"<htm", WEB_PAGE),
    (b"<HTM", WEB_PAGE),
    (b"GGUF", "a GGUF file"),
    (b"lmgg", OLD_GGML),
    (b"fmgg", OLD_GGML),
    (b"tjgg", OLD_GGML),
    (b"algg", OLD_GGML),
    (b"PK\x03\x04", PYTORCH),
    (b"\x80\x02", PYTORCH),
    (b"\x89HDF", "an HDF5 file, as Keras saves weights"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"{", "JSON"),
];

/// What [`recognize`] calls the format of this crate.
pub(crate) const SAFETENSORS: &str = "a safetensors file";
const WEB_PAGE: &str = "a web page in place of the file; fetch it again";
const OLD_GGML: &str = "a GGML file from before GGUF; fetch or convert the model as GGUF";
const PYTORCH: &str = "a file of PyTorch, a pickle or a zip archive of one; save the model as \
                       safetensors: save_pretrained of transformers does";

/// Returns in words what a file is that begins with the bytes `start`, and what to do about it; `None` where they say
/// nothing. 24 bytes tell all kinds apart.
///
/// A few bytes can be wrong, so it is for files that have been found not to be what they should be.
///
/// ```
/// let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a";
/// assert!(tensor_files::recognize(pointer).is_some_and(|what| what.contains("git lfs pull")));
/// assert_eq!(tensor_files::recognize(b"bread"), None);
/// ```
pub fn recognize(start: &[u8]) -> Option<&'static str> {
    // A length of 64 bits, and the object that is so long.
    let is_safetensors = start.len() > 8 && start[4..8] == [0; 4] && start[8] == b'{';
    if is_safetensors {
        return Some(SAFETENSORS);
    }
    let known = KNOWN.iter().find(|(magic, _)| start.starts_with(magic));
    known.map(|(_, what)| *what)
}
