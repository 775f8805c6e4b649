//! The folder of a run: whose it is, and what may be in it.

use crate::runs::{DROPOUT, create, resume, run, settings};
use crate::support::trainer;
use burn::tensor::Device;
use burn_finetune::{FinetuneError, RecordedRun, RunDir, RunSettings};
use std::fs;
use std::path::Path;

pub fn a_folder_with_another_run_is_refused(_: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let error = RecordedRun::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, FinetuneError::NothingToResume { .. }),
        "{error}"
    );
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    let error = RunDir::create(dir.path(), &settings()).unwrap_err();
    assert!(
        matches!(error, FinetuneError::OutputInUse { .. }),
        "{error}"
    );
    let error = RunDir::create(dir.path().join("notes.txt"), &settings()).unwrap_err();
    assert!(matches!(error, FinetuneError::Write { .. }), "{error}");
}

pub fn a_run_is_one_process_own(_: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let run_dir = create(&path);
    assert!(run_dir.is_locked());
    let before = fs::read(path.join("run.json")).unwrap();
    for error in [
        RunDir::create(&path, &settings()).err().unwrap(),
        RecordedRun::open(&path).err().unwrap(),
    ] {
        assert!(matches!(error, FinetuneError::RunInUse { .. }), "{error}");
        assert!(error.to_string().contains("run is in use"), "{error}");
    }
    assert_eq!(fs::read(path.join("run.json")).unwrap(), before);
    // Nothing was saved in it, so it goes as it came.
    drop(run_dir);
    assert!(!path.exists());

    // A run that was there stays, and so does one in which something was saved.
    fs::create_dir(&path).unwrap();
    fs::write(path.join("run.json"), before).unwrap();
    drop(resume(&path));
    assert!(path.join("run.json").exists());
}

pub fn what_a_killed_process_left_goes(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    // Killed while it wrote the settings.
    fs::write(dir.path().join("run.json.Ab12cd.tmp"), "{").unwrap();
    let run_dir = create(dir.path());
    run(&mut trainer(device, DROPOUT, 13), &run_dir, Some(1));
    drop(run_dir);
    let kept = ["run.json", "checkpoints"];
    let own = [
        "adapter_model.safetensors.x1y2z3.tmp",
        "adapter_config.json.x1y2z3.tmp",
    ];
    let others = ["notes.tmp", "optimizer.pages"];
    for name in own.iter().chain(&others) {
        fs::write(dir.path().join(name), "half").unwrap();
    }
    let unfinished = dir.path().join("checkpoints/.unfinished-00000002");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("state.json"), "").unwrap();
    let _run_dir = resume(dir.path());
    let left = |folder: &Path| {
        let names = fs::read_dir(folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let mut expected = [&kept[..], &others].concat();
    expected.sort();
    assert_eq!(left(dir.path()), expected);
    assert_eq!(left(&dir.path().join("checkpoints")), ["step-00000001"]);
}

pub fn a_changed_setting_is_refused_by_name(device: &Device) {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = create(dir.path());
    run(&mut trainer(device, DROPOUT, 13), &run_dir, Some(3));
    drop(run_dir);
    let refused = |change: &dyn Fn(&mut RunSettings)| {
        let mut changed = settings();
        change(&mut changed);
        let error = RecordedRun::open(dir.path()).unwrap().resume(&changed);
        error.unwrap_err().to_string()
    };
    let error = refused(&|changed| changed.config.lr = 0.01);
    assert!(
        error.contains("was started with lr = 0.02, but now it is 0.01"),
        "{error}"
    );
    // The schedule is constant, so more steps are no other run, and fewer than are done make no sense.
    let mut more = settings();
    more.config.steps = 20;
    let run_dir = RecordedRun::open(dir.path())
        .unwrap()
        .resume(&more)
        .unwrap();
    assert_eq!(
        run_dir.restore(&mut trainer(device, DROPOUT, 20)).unwrap(),
        3
    );
    let error = run_dir
        .restore(&mut trainer(device, DROPOUT, 2))
        .unwrap_err();
    assert!(
        matches!(
            error,
            FinetuneError::AlreadyFurther {
                done: 3,
                steps: 2,
                ..
            }
        ),
        "{error}"
    );
}
