use anyhow::{Result, ensure};
use burn_finetune::{Dpo, Kto, Learn, Objective, Orpo};

use crate::flags::{ObjectiveFlags, ObjectiveName, RowFlags};

/// Resolves the flags of the objective.
///
/// # Errors
/// A number that belongs to another objective, and a part of rows to learn for one that judges all of an answer.
pub fn resolve(flags: &ObjectiveFlags, rows: &RowFlags) -> Result<Objective> {
    let ObjectiveFlags {
        objective,
        beta,
        label_smoothing,
        desirable_weight,
        undesirable_weight,
    } = *flags;
    let resolved = match objective {
        ObjectiveName::Sft => Objective::Sft,
        ObjectiveName::Dpo => {
            let usual = Dpo::default();
            Objective::Dpo(Dpo {
                beta: beta.unwrap_or(usual.beta),
                label_smoothing: label_smoothing.unwrap_or(usual.label_smoothing),
            })
        }
        ObjectiveName::Orpo => {
            let usual = Orpo::default();
            Objective::Orpo(Orpo {
                beta: beta.unwrap_or(usual.beta),
            })
        }
        ObjectiveName::Kto => {
            let usual = Kto::default();
            Objective::Kto(Kto {
                beta: beta.unwrap_or(usual.beta),
                desirable_weight: desirable_weight.unwrap_or(usual.desirable_weight),
                undesirable_weight: undesirable_weight.unwrap_or(usual.undesirable_weight),
            })
        }
    };
    use ObjectiveName::{Dpo as D, Kto as K, Orpo as O};
    let own: [(_, _, &[ObjectiveName], _); 4] = [
        (beta, "--beta", &[D, O, K], "dpo, orpo or kto"),
        (label_smoothing, "--label-smoothing", &[D], "dpo"),
        (desirable_weight, "--desirable-weight", &[K], "kto"),
        (undesirable_weight, "--undesirable-weight", &[K], "kto"),
    ];
    for (given, flag, of, named) in own {
        ensure!(
            given.is_none() || of.contains(&objective),
            "{flag} belongs to --objective {named}, and this is --objective {}; leave it out, or give that objective",
            resolved.name()
        );
    }
    ensure!(
        resolved == Objective::Sft || rows.learn == Learn::AllAnswers,
        "--learn belongs to --objective sft; --objective {} judges all of an answer: leave it out",
        resolved.name()
    );
    Ok(resolved)
}
