//! The numbers of a data set as a text.

use burn_finetune::Told;

use super::measured::{Epoch, Lengths, Measured};
use crate::report;

/// Columns of the longest bar.
const BAR: usize = 32;

/// Returns a table of the numbers, with a histogram of the lengths, and what speaks against the data.
pub fn of(measured: &Measured) -> String {
    let mut lines = vec![
        format!(
            "rows        {} of {} examples",
            measured.rows, measured.examples
        ),
        format!(
            "tokens      {}, of which {} are learnt ({:.1} %)",
            measured.tokens,
            measured.targets,
            100.0 * measured.targets as f64 / measured.tokens.max(1) as f64
        ),
    ];
    if let Some(labels) = &measured.labels {
        lines.push(format!(
            "labels      {} desirable, {} undesirable",
            labels.desirable, labels.undesirable
        ));
    }
    if measured.cut > 0 {
        lines.push(format!(
            "cut         {} rows to {} tokens, {} tokens are gone",
            measured.cut, measured.seq_len, measured.cut_tokens
        ));
    }
    if let Some(told) = &measured.dropped {
        lines.push(format!("dropped     {} rows: {}", told.count, first(told)));
    }
    let refused: usize = measured.refused.iter().map(|told| told.count).sum();
    if refused > 0 {
        lines.push(format!("refused     {refused} examples"));
        let told = measured.refused.iter();
        lines.extend(
            told.map(|told| format!("  {:<20}{:>6}  {}", told.kind, told.count, first(told))),
        );
    }
    if let Some(rows) = measured.held_out {
        lines.push(format!("held out    {rows} rows"));
    }
    if let Some(lengths) = &measured.lengths {
        lines.extend(histogram(lengths));
    }
    if let Some(steps) = &measured.steps {
        let (with, without) = if measured.packing {
            ("packed", "not packed")
        } else {
            ("--packing", "as they are")
        };
        lines.push(epoch(without, &steps.apart));
        lines.push(epoch(with, &steps.packed));
    }
    lines.extend(warnings(measured, refused));
    lines.join("\n") + "\n"
}

fn first(told: &Told) -> String {
    report::words(&format!("{}: {}", told.first, told.message))
}

fn histogram(lengths: &Lengths) -> Vec<String> {
    let Lengths {
        shortest,
        median,
        p95,
        longest,
        histogram,
    } = lengths;
    let mut lines = vec![format!(
        "lengths     {shortest} to {longest} tokens, half up to {median}, 95 % up to {p95}"
    )];
    let most = histogram.iter().map(|bin| bin.rows).max().unwrap_or(1);
    lines.extend(histogram.iter().map(|bin| {
        let bar = "#".repeat((bin.rows * BAR).div_ceil(most.max(1)));
        format!(
            "  {:>7} to {:>7}  {bar:<BAR$} {}",
            bin.from, bin.to, bin.rows
        )
    }));
    lines
}

fn epoch(name: &str, epoch: &Epoch) -> String {
    format!(
        "{name:<12}{} rows in {} steps of {:.0} tokens, {:.1} % padding",
        epoch.rows,
        epoch.steps,
        epoch.tokens_a_step,
        100.0 * epoch.padding
    )
}

/// Returns what `train` would say of the data.
fn warnings(measured: &Measured, refused: usize) -> Vec<String> {
    let mut warnings: Vec<String> = measured
        .warnings
        .iter()
        .map(|told| report::words(&told.line()))
        .collect();
    if measured.rows == 0 {
        warnings.push("no row can be used".into());
    } else if refused > 0 {
        warnings.push(format!(
            "train refuses the file for the {refused} examples that cannot be used"
        ));
    }
    if let Some(lengths) = &measured.lengths
        && lengths.longest > measured.seq_len
    {
        warnings.push(format!(
            "rows are longer than {} tokens: --seq-len {} takes them whole, --truncate cuts them",
            measured.seq_len, lengths.longest
        ));
    }
    let lines = warnings.into_iter();
    lines.map(|warning| format!("warning: {warning}")).collect()
}
