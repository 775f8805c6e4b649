use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::train::TrainRun;
use crate::config;
use crate::device::DeviceName;
use crate::flags::{Command, TrainFlags, VerifyFlags};
use crate::origin::Origin;

/// Steps that are taken again where the user does not say.
const STEPS: usize = 5;

/// `finetune verify`.
#[derive(Debug)]
pub struct VerifyRun {
    /// The run's folder.
    pub run: PathBuf,
    /// Steps to take again, where the user says how many.
    steps: Option<usize>,
    moved: Moved,
}

/// What is elsewhere than when the run was started.
#[derive(Debug)]
struct Moved {
    model: Option<String>,
    data: Vec<PathBuf>,
    init_adapter: Option<PathBuf>,
    chat_template: Option<String>,
    device: Option<DeviceName>,
}

impl VerifyRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// No run.
    pub fn resolve(flags: VerifyFlags) -> Result<Self> {
        Ok(Self {
            run: flags
                .run
                .context("no run is given; name its output directory")?,
            steps: flags.steps,
            moved: Moved {
                model: flags.model,
                data: flags.data,
                init_adapter: flags.init_adapter,
                chat_template: flags.chat_template,
                device: flags.device,
            },
        })
    }

    /// Returns how many of the `taken` steps of the run are taken again.
    ///
    /// # Errors
    /// More than those, and a run without any.
    pub fn steps(&self, taken: usize) -> Result<usize> {
        ensure!(
            taken > 0,
            "the run in {} has taken no step yet",
            self.run.display()
        );
        match self.steps {
            Some(steps) if steps > taken => bail!(
                "--steps {steps}: the run in {} has taken {taken} so far; give at most {taken}",
                self.run.display()
            ),
            Some(steps) => Ok(steps),
            None => Ok(STEPS.min(taken)),
        }
    }

    /// Returns the run as it came from `origin`, with what has moved.
    ///
    /// # Errors
    /// Arguments that this version does not take, and as [`TrainRun::resolve`].
    pub fn train_run(&self, origin: &Origin) -> Result<TrainRun> {
        let words = ["finetune", "train"].into_iter();
        let words = words.chain(origin.arguments.iter().map(String::as_str));
        let place = || format!("the arguments in {}/run.json", self.run.display());
        let cli = config::of_whole(words.map(OsString::from).collect()).with_context(place)?;
        let Command::Train(mut flags) = cli.command else {
            bail!("{} are none of `finetune train`", place());
        };
        self.moved.apply(&mut flags, origin)?;
        // What is measured, shown and written decides nothing of the steps.
        flags.output = Some(self.run.clone());
        flags.log_json = None;
        flags.tensorboard = None;
        flags.sample_prompts = None;
        flags.eval_data.clear();
        flags.eval_every = 0;
        flags.keep_best = false;
        flags.early_stop = None;
        flags.model.page_dir = None;
        TrainRun::resolve(*flags)
    }
}

impl Moved {
    fn apply(&self, flags: &mut TrainFlags, origin: &Origin) -> Result<()> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let located = |name: String| text(&origin.located(name));
        flags.model.model = match &self.model {
            Some(model) => Some(model.clone()),
            None => flags.model.model.take().map(located),
        };
        flags.model.chat_template = match (&self.chat_template, flags.model.chat_template.take()) {
            (Some(_), None) => bail!("--chat-template: the run has the model's own; leave it out"),
            (Some(given), Some(_)) => Some(given.clone()),
            (None, named) => named.map(located),
        };
        flags.init_adapter = match (&self.init_adapter, flags.init_adapter.take()) {
            (Some(_), None) => bail!("--init-adapter: the run was started from none; leave it out"),
            (Some(given), Some(_)) => Some(given.clone()),
            (None, named) => named.map(|named| origin.located(named)),
        };
        flags.data = if self.data.is_empty() {
            flags.data.iter().map(|name| origin.located(name)).collect()
        } else {
            ensure!(
                self.data.len() == flags.data.len(),
                "--data is given {} times, and was {} times when the run was started; name all in the same order",
                self.data.len(),
                flags.data.len()
            );
            self.data.clone()
        };
        let tokens = &mut flags.tokens.add_tokens;
        *tokens = tokens.take().map(|path| origin.located(path));
        if let Some(device) = self.device {
            flags.model.device = device;
        }
        Ok(())
    }
}
