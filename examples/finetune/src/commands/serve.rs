//! `finetune serve`: answers over HTTP.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use burn_qlora_llama::{Decoder, KvCache, Weights};
use tokio::sync::oneshot;

use crate::console::say;
use crate::interrupt::Interrupt;
use crate::opened_model::{MoreTokens, OpenedModel, open_adapter};
use crate::progress::human_bytes;
use crate::run::ServeRun;
use crate::serve::{Engine, Server, Service, router};
use crate::stop::Stop;
use crate::trained_on;

/// Serves until a signal ends it.
///
/// # Errors
/// Whatever is wrong with the model or an adapter; an address that cannot be listened at.
pub fn run(run: &ServeRun) -> Result<()> {
    // Whatever takes no time to find out comes before the weights.
    let server = Server::bind(run.address)?;
    let interrupt = Interrupt::listen(
        "No more requests are taken up; those that run have half a minute (Ctrl-C again ends at once)",
    )?;
    let mut opened = OpenedModel::open(&run.model, trained(run)?, MoreTokens::OfAdapter(None))?;
    for (name, path) in &run.adapters {
        let added = MoreTokens::OfAdapter(Some(path)).add_to(&mut opened.checkpoint)?;
        ensure!(
            added.is_empty(),
            "--adapter {name}: it brings tokens of its own, which the models beside it do not have; write it into a model of its \
             own (finetune export) and serve that"
        );
    }
    let stop = Stop::of(&opened)?;
    let models = models(run, &opened)?;
    let opened = Arc::new(opened);
    let mut engine = Engine::new(models, opened.texts(), stop, run.limits.max_batch)?;

    let names = std::iter::once(run.name.clone());
    let names = names.chain(run.adapters.iter().map(|(name, _)| name.clone()));
    let (jobs, to_do) = mpsc::channel();
    let service = Service::new(
        opened.clone(),
        names.collect(),
        run.limits.clone(),
        run.api_key.clone(),
        jobs,
    );
    let address = server.address()?;
    say!("Models: {}", service.models().join(", "));
    say!("{}", cache_line(run, &opened, service.context()));
    say!("Listening at http://{address}/ (the API at http://{address}/v1)");
    let (stop, stopped) = oneshot::channel();
    let routes = router(Arc::new(service));
    let serving = thread::Builder::new()
        .name("http".into())
        .spawn(move || server.run(routes, stopped))
        .context("start the server")?;
    let mut stop = Some(stop);
    engine.run(&to_do, &mut || {
        if interrupt.requested()
            && let Some(stop) = stop.take()
        {
            // A server that is gone has stopped.
            let _ = stop.send(());
        }
    });
    let served = serving.join();
    served.map_err(|_| anyhow!("the server failed"))?
}

/// Returns the form of the weights that the adapters were trained on, if that is known.
fn trained(run: &ServeRun) -> Result<Option<Weights>> {
    let mut found: Option<(&str, Weights)> = None;
    for (name, path) in &run.adapters {
        let Some(weights) = trained_on::of_adapter(path) else {
            continue;
        };
        match found {
            Some((other, known)) if known != weights && run.model.quantization.is_left_open() => {
                return Err(anyhow!(
                    "--adapter {name}: it was trained on weights of another form than {other}, and both are to share them; say \
                     with --quant which form they have"
                ));
            }
            Some(_) => {}
            None => found = Some((name, weights)),
        }
    }
    Ok(found.map(|(_, weights)| weights))
}

/// Loads the model, and makes one with each adapter of it: they share its weights.
fn models(run: &ServeRun, opened: &OpenedModel) -> Result<Vec<Decoder>> {
    let base = opened.load_to_ask(&run.model.device)?;
    let adapted = run.adapters.iter().map(|(name, path)| {
        let attach = |path: &Path| -> Result<Decoder> {
            let mut model = base.clone();
            open_adapter(path, &opened.checkpoint)?.attach(&mut model)?;
            Ok(model)
        };
        attach(path).with_context(|| format!("--adapter {name}"))
    });
    let adapted: Vec<Decoder> = adapted.collect::<Result<_>>()?;
    Ok(std::iter::once(base).chain(adapted).collect())
}

/// Returns what the keys and values of all answers may take.
fn cache_line(run: &ServeRun, opened: &OpenedModel, context: usize) -> String {
    let rows = run.limits.max_batch;
    let config = opened.checkpoint.config();
    let compute = run.model.compute_dtype.dtype();
    let dtype = run.model.kv_cache_dtype.dtype(compute);
    let bytes = KvCache::most_bytes(config, dtype, rows, context);
    format!(
        "Keys and values of {rows} answers of {context} tokens take at most {}",
        human_bytes(bytes)
    )
}
