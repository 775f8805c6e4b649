//! Folders at which a file system is mounted: no other folder can take their name.

use std::fs;
use std::path::Path;

/// Returns whether a file system is mounted at the folder, as far as the system tells.
pub(crate) fn is_mount_point(dir: &Path) -> bool {
    let Ok(dir) = fs::canonicalize(dir) else {
        return false;
    };
    dir.parent()
        .is_none_or(|parent| on_another_device(&dir, parent) || is_listed(&dir))
}

#[cfg(unix)]
fn on_another_device(dir: &Path, parent: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path| fs::metadata(path).map(|metadata| metadata.dev());
    matches!((device(dir), device(parent)), (Ok(one), Ok(other)) if one != other)
}

#[cfg(not(unix))]
fn on_another_device(_: &Path, _: &Path) -> bool {
    false
}

/// Returns whether the folder is among the mounts that Linux lists: a folder can be mounted at another one of its own device
/// (`mount --bind`, a container's volumes).
fn is_listed(dir: &Path) -> bool {
    let Ok(mounts) = fs::read("/proc/self/mountinfo") else {
        return false;
    };
    let mut mounts = mounts.split(|byte| *byte == b'\n');
    mounts.any(|mount| {
        let point = mount.split(|byte| *byte == b' ').nth(4);
        point.is_some_and(|point| unescaped(point) == dir.as_os_str().as_encoded_bytes())
    })
}

/// Returns a path of the list: its blanks and backslashes are written in octal, `\040`.
fn unescaped(point: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(point.len());
    let mut rest = point;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let code = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *byte == b'\\' => {
                rest = &tail[3..];
                (a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')
            }
            _ => *byte,
        };
        path.push(code);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_list_are_read_back() {
        assert_eq!(
            unescaped(br"/mnt/my\040disk\134\011x"),
            b"/mnt/my disk\\\tx"
        );
        assert_eq!(unescaped(br"/a\04"), br"/a\04");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn mounts_are_told_from_folders() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_mount_point(dir.path()));
        assert!(is_mount_point(Path::new("/")));
        assert!(is_mount_point(Path::new("/proc")));
    }
}
