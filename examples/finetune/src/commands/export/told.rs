use anyhow::Result;
use burn_qlora::WeightChange;
use burn_qlora_llama::MergeReport;
use serde_json::json;

use super::check::Losses;
use crate::console::say;
use crate::run::ExportRun;

/// Returns the model in words.
pub fn of_what(run: &ExportRun) -> String {
    let model = &run.model.name;
    match &run.adapter {
        Some(adapter) => format!("{model} with {} merged into it", adapter.display()),
        None => model.clone(),
    }
}

/// Prints what has changed, a line a layer.
pub fn say(report: &MergeReport) {
    for path in &report.replaced {
        say!("{path:<14} the adapter's");
    }
    for (path, tokens) in &report.rows {
        say!("{path:<14} the rows of {tokens} tokens are the adapter's");
    }
    if report.changes.is_empty() {
        return;
    }
    say!("changed by, as |s*B*A| / |W| of the weights with factors:");
    for (number, change) in report.by_block() {
        say!("layer {number:<8} {}", percent(change));
    }
    say!("all            {}", percent(report.total()));
}

fn percent(change: WeightChange) -> String {
    format!("{:.3} %", 100.0 * change.relative_norm())
}

/// Returns the same, and the losses, as one JSON object.
///
/// # Errors
/// None in practice: all of it is JSON.
pub fn json(report: &MergeReport, losses: Option<&Losses>) -> Result<String> {
    let blocks = report.by_block().into_iter();
    let layers: Vec<_> = blocks
        .map(|(layer, change)| json!({ "layer": layer, "relative_norm": change.relative_norm() }))
        .collect();
    let total = (!layers.is_empty()).then(|| report.total().relative_norm());
    Ok(serde_json::to_string(&json!({
        "relative_norm": total,
        "layers": layers,
        "replaced": report.replaced,
        "rows": report.rows,
        "check": losses,
    }))?)
}
