use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::model::Model;
use crate::flags::ServeFlags;

/// The variable of the environment that the key may be in.
const API_KEY: &str = "FINETUNE_API_KEY";

/// `finetune serve`.
#[derive(Debug)]
pub struct ServeRun {
    /// The model.
    pub model: Model,
    /// Its name in requests.
    pub name: String,
    /// Its adapters by their names in requests.
    pub adapters: Vec<(String, PathBuf)>,
    /// The address to listen at.
    pub address: SocketAddr,
    /// The key that requests must have.
    pub api_key: Option<String>,
    /// What a request may take.
    pub limits: ServeLimits,
}

/// What requests may take.
#[derive(Clone, Debug)]
pub struct ServeLimits {
    /// Most rows at the same time.
    pub max_batch: usize,
    /// Most requests that wait beside as many as there are rows.
    pub max_queue: usize,
    /// Most tokens of a prompt and its answer; `None` for the model's context.
    pub context: Option<usize>,
    /// Most bytes of a request.
    pub max_body: usize,
    /// Most time of a request.
    pub timeout: Duration,
}

impl ServeRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// A name that two models have; no key at an address that others reach; and as [`Model`]'s.
    pub fn resolve(flags: ServeFlags) -> Result<Self> {
        let address = SocketAddr::new(flags.host, flags.port);
        let api_key = flags.api_key.or_else(|| std::env::var(API_KEY).ok());
        match api_key.as_deref() {
            Some("") => bail!("the API key is empty; leave it out, or give one of some length"),
            Some(key) => ensure!(
                key.chars().all(|c| c.is_ascii_graphic()),
                "the API key has a character that no header can carry; take letters, digits and punctuation of ASCII"
            ),
            None => ensure!(
                address.ip().is_loopback(),
                "--host {}: others reach this address; give a key with --api-key or in {API_KEY}, or listen at 127.0.0.1",
                address.ip()
            ),
        }
        let model = Model::resolve(flags.model)?.with_kv_cache(&flags.kv_cache)?;
        let name = served_name(&model.name);
        let mut names = BTreeSet::from([name.as_str()]);
        for (adapter, _) in &flags.adapter {
            ensure!(
                names.insert(adapter),
                "--adapter {adapter}: there is a model of this name already; give it another"
            );
        }
        Ok(Self {
            model,
            name,
            adapters: flags.adapter,
            address,
            api_key,
            limits: ServeLimits {
                max_batch: flags.max_batch,
                max_queue: flags.max_queue,
                context: flags.context,
                max_body: usize::try_from(flags.max_body).context("--max-body")?,
                timeout: Duration::from_secs(flags.timeout as u64),
            },
        })
    }
}

/// Returns the name of a model in requests: a Hub id as it is, of a path the last part without `.gguf`.
fn served_name(model: &str) -> String {
    let Ok(path) = Path::new(model).canonicalize() else {
        return model.to_owned();
    };
    match path.file_name().and_then(OsStr::to_str) {
        Some(last) => last.strip_suffix(".gguf").unwrap_or(last).to_owned(),
        None => model.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_goes_by_its_hub_id_or_the_name_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            path.to_str().unwrap().to_owned()
        };
        assert_eq!(served_name(&path("a.Q4_1.gguf")), "a.Q4_1");
        assert_eq!(served_name(&path("plain")), "plain");
        assert_eq!(served_name("owner/name"), "owner/name");
    }
}
