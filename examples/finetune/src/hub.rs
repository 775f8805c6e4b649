//! Repositories of the Hugging Face Hub.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};

/// A repository at a revision, and what the cache has of it.
pub struct HubRepo {
    /// What it is called in errors.
    name: String,
    repo: Repo,
    remote: ApiRepo,
}

impl HubRepo {
    /// Prepares to ask for `repo`, which is `name` in errors.
    ///
    /// # Errors
    /// Neither `HF_HOME` nor a home folder, as in a container with a user of its own; settings that no request can be made
    /// with.
    pub fn new(name: String, repo: Repo) -> Result<Self> {
        ensure_cache(&name)?;
        let api = ApiBuilder::from_env().with_progress(true).build();
        let api = api.map_err(|e| anyhow!("{e}"))?;
        Ok(Self {
            remote: api.repo(repo.clone()),
            name,
            repo,
        })
    }

    /// Returns the names of its files.
    ///
    /// # Errors
    /// What the Hub, or the way to it, says.
    pub fn files(&self) -> Result<Vec<String>, ApiError> {
        let listed = self.remote.info()?.siblings.into_iter();
        Ok(listed.map(|file| file.rfilename).collect())
    }

    /// Returns where the cache has a file, which needs no network.
    pub fn cached(&self, file: &str) -> Option<PathBuf> {
        Cache::from_env().repo(self.repo.clone()).get(file)
    }

    /// Downloads a file, unless the cache has it, and returns where it is.
    ///
    /// # Errors
    /// What the Hub, or the way to it, says.
    pub fn get(&self, file: &str) -> Result<PathBuf> {
        self.remote
            .get(file)
            .map_err(|e| anyhow!("{e}"))
            .with_context(|| format!("{}: fetch {file} from the Hugging Face Hub", self.name))
    }
}

/// Checks that there is a place for downloads, without which hf-hub panics.
fn ensure_cache(name: &str) -> Result<()> {
    // hf-hub reads the variable as text.
    if std::env::var("HF_HOME").is_err()
        && std::env::home_dir().is_none_or(|home| home.as_os_str().is_empty())
    {
        bail!(
            "{name}: no folder for downloads, because this user has no home folder; name one with the environment \
             variable HF_HOME"
        );
    }
    Ok(())
}
