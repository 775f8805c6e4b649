//! The families beside LLaMA, through every command.

use qlora_test_support::FAMILIES;

use crate::finetune;
use crate::support::{self, Place, number};

/// Packed rows in bf16 with checkpointing, on a checkpoint that `quantize` wrote; a lower loss with the adapter; and a text.
#[test]
fn they_are_quantized_trained_evaluated_and_continued() {
    let place = Place::new();
    let rows = place.rows(24);
    for family in FAMILIES {
        let dense = place.model(&format!("families/{family}"));
        let model = place.path(&format!("{family}-nf4"));
        finetune!("quantize", "--model", &dense, "--output", &model).ok();
        let run = place.path(&format!("{family}-run"));
        let train = [
            "--steps",
            "12",
            "--batch-size",
            "2",
            "--seq-len",
            "64",
            "--rank",
            "8",
            "--lr",
            "1e-2",
            "--packing",
            "--checkpointing",
            "layer",
            "--compute-dtype",
            "bf16",
        ];
        support::run(support::train(&model, &rows, &run).args(train)).ok();
        let nll = |adapter: &[&std::ffi::OsStr]| {
            let mut command = support::eval(&model, &rows);
            let run = support::run(command.arg("--json").args(adapter)).ok();
            number(&run.last_json(), "nll")
        };
        let (before, after) = (nll(&[]), nll(&["--adapter".as_ref(), run.as_os_str()]));
        assert!(after < before, "{family}: {before} became {after}");
        let text = finetune!(
            "generate",
            "--model",
            &model,
            "--adapter",
            &run,
            "--prompt",
            "7 and 49? ",
            "--max-tokens",
            "12"
        );
        assert!(!text.ok().stdout.is_empty(), "{family}");
    }
}
