use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn_finetune::ExampleKind;
use burn_qlora_llama::{FloatType, GgufType};
use clap::ValueEnum;

use super::data_files::DataFiles;
use super::model::{Model, Quantization};
use super::rows::RowLimits;
use crate::flags::{ExportBase, ExportFlags, ExportTarget, QuantName};

/// `finetune export`.
#[derive(Debug)]
pub struct ExportRun {
    /// The model. Its weights are loaded as the base that is merged into: dense for the checkpoint's own.
    pub model: Model,
    /// Its adapter.
    pub adapter: Option<PathBuf>,
    /// The format, with its settings.
    pub target: Target,
    /// Where to write.
    pub output: PathBuf,
    /// What to measure afterwards.
    pub check: Option<Check>,
    /// Whether to print a JSON object.
    pub json: bool,
}

/// A format with its settings.
#[derive(Debug)]
pub enum Target {
    /// A Hugging Face directory.
    Hf(HfTarget),
    /// A file of llama.cpp, with the type of its weights, `None` for the checkpoint's.
    Gguf(Option<GgufType>),
    /// The adapter for llama.cpp.
    AdapterGguf,
}

/// The settings of a Hugging Face directory.
#[derive(Debug)]
pub struct HfTarget {
    /// The type of the weights, `None` for the checkpoint's.
    pub dtype: Option<FloatType>,
    /// The most bytes in a file.
    pub shard_bytes: u64,
}

/// Rows to measure the loss on.
#[derive(Debug)]
pub struct Check {
    /// The data.
    pub data: DataFiles,
    /// The limits of the rows.
    pub limits: RowLimits,
    /// Rows measured at once.
    pub batch_size: usize,
}

impl ExportRun {
    /// Resolves the flags.
    ///
    /// # Errors
    /// No output, a type that the format does not have, flags that do not go together, and as [`Model`]'s.
    pub fn resolve(flags: ExportFlags) -> Result<Self> {
        let output = flags
            .output
            .clone()
            .context("no output is given; name one with --output")?;
        let format = flags.to.unwrap_or(match output.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("gguf") => ExportTarget::Gguf,
            _ => ExportTarget::Hf,
        });
        let target = match format {
            ExportTarget::Hf => Target::Hf(HfTarget::resolve(&flags)?),
            ExportTarget::Gguf => Target::Gguf(gguf_type(&flags)?),
            ExportTarget::AdapterGguf => Target::adapter_gguf(&flags)?,
        };
        let quant = flags.model.base.quant.quant;
        let mut model = Model::resolve(flags.model.base)?;
        match (flags.base, quant) {
            (ExportBase::Original, None) => model.quantization = Quantization::Dense,
            (ExportBase::Original, Some(_)) => bail!(
                "--quant goes with --base quantized; --base original merges into the checkpoint's own weights"
            ),
            (ExportBase::Quantized, _) => model.quantization = model.quantization.quantized(),
        }
        if flags.base == ExportBase::Quantized
            && let Some(quant @ (QuantName::Keep | QuantName::None)) = quant
        {
            bail!(
                "--base quantized with --quant {}: name the 4-bit format of the base, or use --base original",
                quant.name()
            );
        }
        let data = DataFiles::resolve(flags.check, &[], &flags.rows.columns, ExampleKind::Texts)?;
        Ok(Self {
            model,
            adapter: flags.model.adapter,
            target,
            output,
            check: data.map(|data| Check {
                data,
                limits: flags.rows.into(),
                batch_size: flags.batch_size,
            }),
            json: flags.json,
        })
    }
}

impl Target {
    /// Checks that no flag is given that is about a model.
    fn adapter_gguf(flags: &ExportFlags) -> Result<Self> {
        let refused = |flag: &str| {
            format!(
                "{flag} is about a merged model; --to adapter-gguf writes the adapter alone, in f32"
            )
        };
        if flags.dtype.is_some() {
            bail!(refused("--dtype"));
        }
        if !flags.check.is_empty() {
            bail!(refused("--check"));
        }
        if flags.base != ExportBase::Original {
            bail!(refused("--base"));
        }
        if flags.model.adapter.is_none() {
            bail!("--to adapter-gguf needs an adapter; name one with --adapter");
        }
        Ok(Self::AdapterGguf)
    }
}

impl HfTarget {
    fn resolve(flags: &ExportFlags) -> Result<Self> {
        let dtype = flags.dtype.as_deref().map(|name| {
            let known = FloatType::from_str(name, true);
            known
                .ok()
                .with_context(|| format!("--dtype {name}: --to hf writes f32, f16 or bf16"))
        });
        Ok(Self {
            dtype: dtype.transpose()?,
            shard_bytes: flags.shard_size,
        })
    }
}

/// Returns the type that --dtype names.
fn gguf_type(flags: &ExportFlags) -> Result<Option<GgufType>> {
    let kind = flags.dtype.as_deref().map(|name| {
        let names = || {
            let names = GgufType::ALL.iter().map(|kind| kind.name().to_lowercase());
            names.collect::<Vec<_>>().join(", ")
        };
        let known = GgufType::from_str(name, true);
        known
            .ok()
            .with_context(|| format!("--dtype {name}: --to gguf writes {}", names()))
    });
    kind.transpose()
}
