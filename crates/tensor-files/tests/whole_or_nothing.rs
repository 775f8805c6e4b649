//! Files and folders replace what was there when they are complete, and leave nothing behind when they are not.

use std::fs;
use std::path::Path;

use tensor_files::{AtomicFile, FileGroup, StagedDir, TensorFileError};

/// The key of a folder that is gone on with.
const KEY: u64 = 0xabc;

fn listing(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn begun(path: &Path, text: &str) -> AtomicFile {
    let mut file = AtomicFile::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn a_file_takes_its_name_when_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    drop(begun(&path, "given up"));
    assert!(listing(dir.path()).is_empty());
    for text in ["first", "second"] {
        let before = fs::read_to_string(&path).ok();
        let file = begun(&path, text);
        assert_eq!(fs::read_to_string(&path).ok(), before);
        file.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    drop(begun(&path, "given up"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    assert_eq!(listing(dir.path()), ["file"]);
}

#[test]
fn a_file_that_cannot_take_its_name_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taken");
    fs::create_dir(&path).unwrap();
    let error = begun(&path, "text").commit().unwrap_err();
    assert!(
        matches!(&error, TensorFileError::Write { path: named, .. } if *named == path),
        "{error}"
    );
    assert_eq!(listing(dir.path()), ["taken"]);
    for path in [dir.path().join("missing/file"), dir.path().join("..")] {
        let error = AtomicFile::create(&path).unwrap_err();
        assert!(
            matches!(&error, TensorFileError::Write { path: named, .. } if *named == path),
            "{error}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_file_has_the_permissions_of_the_one_it_replaces() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (path, ordinary) = (dir.path().join("file"), dir.path().join("ordinary"));
    fs::write(&ordinary, "").unwrap();
    begun(&path, "new").commit().unwrap();
    assert_eq!(mode(&path), mode(&ordinary));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    begun(&path, "replaced").commit().unwrap();
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn the_files_of_a_group_appear_together() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/group");
    let fill = |commit: bool| {
        let group = FileGroup::create(&folder).unwrap();
        let mut files = ["a", "b"].map(|name| group.file(name).unwrap());
        for file in &mut files {
            file.write_all(b"text").unwrap();
        }
        assert!(!folder.join("a").exists());
        if commit {
            group.commit(files).unwrap();
        }
    };
    fill(false);
    assert!(!folder.exists());
    fill(true);
    assert_eq!(listing(&folder), ["a", "b"]);

    // A folder that was there stays, with what is in it.
    let group = FileGroup::create(&folder).unwrap();
    let (one, two) = (group.file("c").unwrap(), group.file("d").unwrap());
    fs::create_dir(folder.join("d")).unwrap();
    let error = group.commit([two, one]).unwrap_err();
    assert!(error.to_string().contains("d"), "{error}");
    assert_eq!(listing(&folder), ["a", "b", "d"]);
}

#[test]
fn a_folder_takes_its_name_when_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("parent/model");
    let staged = StagedDir::new(&destination).unwrap();
    staged.write("config.json", b"{}").unwrap();
    assert!(!destination.exists());
    drop(staged);
    assert!(listing(&dir.path().join("parent")).is_empty());

    let elsewhere = dir.path().join("tokenizer.json");
    fs::write(&elsewhere, "words").unwrap();
    // An empty folder of the name is no obstacle.
    fs::create_dir(&destination).unwrap();
    let staged = StagedDir::new(&destination).unwrap();
    staged.write("config.json", b"{}").unwrap();
    staged.copy(&elsewhere).unwrap();
    staged.publish().unwrap();
    assert_eq!(listing(&destination), ["config.json", "tokenizer.json"]);
    assert_eq!(listing(&dir.path().join("parent")), ["model"]);
}

#[test]
fn a_folder_that_holds_something_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "").unwrap();
    let error = StagedDir::new(dir.path()).unwrap_err();
    assert!(
        matches!(&error, TensorFileError::Occupied { path } if path == dir.path()),
        "{error}"
    );
    let error = StagedDir::new(&dir.path().join("mine")).unwrap_err();
    assert!(matches!(error, TensorFileError::Read { .. }), "{error}");
    let error = StagedDir::new(Path::new("/..")).unwrap_err();
    assert!(matches!(
        error,
        TensorFileError::NoName { .. } | TensorFileError::Occupied { .. }
    ));
    assert_eq!(listing(dir.path()), ["mine"]);
}

#[test]
fn a_folder_that_replaces_another_does_so_when_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("checkpoints/step-1");
    for text in ["first", "second"] {
        // What a process that was killed left behind.
        fs::create_dir_all(dir.path().join("checkpoints/.unfinished/deep")).unwrap();
        let staged = StagedDir::replacing(&destination, ".unfinished").unwrap();
        staged.write(text, b"").unwrap();
        staged.publish().unwrap();
        assert_eq!(listing(&destination), [text]);
    }
    drop(StagedDir::replacing(&destination, ".unfinished").unwrap());
    assert_eq!(listing(&destination), ["second"]);
    assert_eq!(listing(&dir.path().join("checkpoints")), ["step-1"]);

    // A file under the hidden name is somebody's.
    let file = dir.path().join("checkpoints/.unfinished");
    fs::write(&file, "mine").unwrap();
    let error = StagedDir::replacing(&destination, ".unfinished").unwrap_err();
    assert!(
        matches!(&error, TensorFileError::Write { path, .. } if *path == file),
        "{error}"
    );
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_killed_process_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("model");
    let other = StagedDir::new(&destination).unwrap();
    // A number that no process of Linux has, then names that are somebody's.
    for name in [
        ".model.4294967295.partial",
        ".model.mine.partial",
        ".models.1.partial",
    ] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("model.safetensors"), "half").unwrap();
    }
    fs::write(dir.path().join(".model.1.partial"), "a file").unwrap();
    // The folder of the process that is still at it is locked, its number being that of the next one here.
    let hidden = other.path().file_name().unwrap().to_owned();
    let error = StagedDir::new(&destination).unwrap_err();
    assert!(matches!(error, TensorFileError::Write { .. }), "{error}");
    let mut kept = [
        ".model.1.partial",
        ".model.mine.partial",
        ".models.1.partial",
    ]
    .map(str::to_owned)
    .to_vec();
    kept.push(hidden.into_string().unwrap());
    kept.sort();
    assert_eq!(listing(dir.path()), kept);
    other.publish().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_replaced_is_refused_before_anything_is_made() {
    use std::os::unix::fs::symlink;
    // Whatever this machine has mounted is a folder that holds something, or is refused as a mount.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for mounted in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        if let Ok(staged) = StagedDir::new(Path::new(mounted)) {
            panic!("{mounted} is to be replaced by {}", staged.path().display());
        }
    }
    // A link is followed: the folder it names is the one that is made.
    let dir = tempfile::tempdir().unwrap();
    let (folder, link) = (dir.path().join("folder"), dir.path().join("link"));
    fs::create_dir(&folder).unwrap();
    symlink(&folder, &link).unwrap();
    let staged = StagedDir::new(&link).unwrap();
    staged.write("config.json", b"{}").unwrap();
    staged.publish().unwrap();
    assert_eq!(listing(&link), ["config.json"]);
    fs::remove_dir_all(&folder).unwrap();
    let error = StagedDir::new(&link).unwrap_err();
    assert!(
        matches!(&error, TensorFileError::Read { path, .. } if *path == link),
        "{error}"
    );
}

#[test]
fn a_resumable_folder_keeps_what_is_complete_for_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("new");
    // With nothing in it, it goes.
    drop(StagedDir::resumable(&destination, KEY).unwrap());
    assert!(listing(dir.path()).is_empty());

    let staged = StagedDir::resumable(&destination, KEY).unwrap();
    staged.write("whole", b"text").unwrap();
    let half = begun(&staged.path().join("half"), "te");
    let error = StagedDir::resumable(&destination, KEY).unwrap_err();
    assert!(matches!(error, TensorFileError::InUse { .. }), "{error}");
    // As where a process is killed.
    let left = staged.path().to_owned();
    std::mem::forget(half);
    drop(staged);
    assert_eq!(listing(&left), ["whole"]);
    assert_eq!(StagedDir::unfinished(&destination), Some(left.clone()));
    fs::write(left.join("half.x.tmp"), "te").unwrap();

    let staged = StagedDir::resumable(&destination, KEY).unwrap();
    assert_eq!(staged.path(), left);
    assert_eq!(listing(&left), ["whole"]);
    assert!(staged.has("whole") && staged.read("whole").unwrap() == b"text");
    drop(staged);
    assert_eq!(listing(dir.path()).len(), 1);

    // Another key begins anew, and so does a folder that nothing can go on with.
    drop(StagedDir::resumable(&destination, KEY + 1).unwrap());
    assert!(listing(dir.path()).is_empty());
    let staged = StagedDir::resumable(&destination, KEY).unwrap();
    staged.write("whole", b"text").unwrap();
    drop(staged);
    drop(StagedDir::new(&destination).unwrap());
    assert!(listing(dir.path()).is_empty());
    let staged = StagedDir::resumable(&destination, KEY).unwrap();
    staged.write("whole", b"text").unwrap();
    staged.discard();
    assert!(listing(dir.path()).is_empty());

    let staged = StagedDir::resumable(&destination, KEY).unwrap();
    staged.write("whole", b"text").unwrap();
    staged.write("passing", b"").unwrap();
    staged.remove("passing").unwrap();
    staged.publish().unwrap();
    assert_eq!(StagedDir::unfinished(&destination), None);
    assert_eq!(listing(dir.path()), ["new"]);
    assert_eq!(listing(&destination), ["whole"]);
    let error = StagedDir::resumable(&destination, KEY).unwrap_err();
    assert!(matches!(error, TensorFileError::Occupied { .. }), "{error}");
}
