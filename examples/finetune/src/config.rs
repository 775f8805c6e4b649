//! `--config FILE.toml`: the flags of a command by their names, under the flags that are given.
//!
//! A key is turned into the flag it names and parsed as that flag is, so that the file and the
//! command line cannot come to mean different things. A flag on the command line drops the key of
//! the same name and the keys that exclude it (`--epochs` drops `steps`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use toml::{Table, Value};

use crate::flags::{Cli, Command};
use crate::origin;
use crate::shell::quoted;

/// Parses the command line, with the config file it names under it.
///
/// # Errors
/// Whatever clap refuses, as one line; a config file that cannot be read, is not TOML, or has a key
/// or value that the command does not know, with the file's name and the key's.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = matches_or_help(Cli::command(), arguments.clone())
        .map_err(|error| named_or(error, &arguments))?;
    let (name, given) = matches.subcommand().context("no command is given")?;
    if let Some(path) = given.get_one::<PathBuf>("config") {
        arguments.extend(flags_of_file(path, name, given)?);
    }
    of_whole(arguments)
}

/// Parses a command line that has the flags of its config file among its own.
///
/// # Errors
/// Whatever clap refuses, as one line.
pub fn of_whole(arguments: Vec<OsString>) -> Result<Cli> {
    let matches = matches_or_help(Cli::command(), arguments.clone()).map_err(one_line)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(one_line)?;
    if let Command::Train(flags) = &mut cli.command {
        flags.arguments = origin::of_train(&arguments);
    }
    Ok(cli)
}

/// Parses, except that `--help` and `--version` print and end the program.
fn matches_or_help(
    command: clap::Command,
    arguments: Vec<OsString>,
) -> Result<ArgMatches, clap::Error> {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    command
        .try_get_matches_from(arguments)
        .map_err(|error| match error.kind() {
            DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
            _ => error,
        })
}

/// Returns clap's message, where it is that some argument is not UTF-8 with those that are not.
fn named_or(error: clap::Error, arguments: &[OsString]) -> anyhow::Error {
    if error.kind() != clap::error::ErrorKind::InvalidUtf8 {
        return one_line(error);
    }
    let others = arguments
        .iter()
        .filter(|argument| argument.to_str().is_none());
    let others: Vec<String> = others.map(|argument| quoted(argument)).collect();
    anyhow!(
        "not UTF-8: {}; files and folders that are read or written may have such names, but not a model, and no text or \
         number; give the model's folder another name, or a link to it",
        others.join(" ")
    )
}

/// Returns clap's message without its usage text and tips, on one line.
fn one_line(error: clap::Error) -> anyhow::Error {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    anyhow!(
        "{}; see --help",
        line.strip_prefix("error: ").unwrap_or(&line)
    )
}

/// Returns the keys of the file as flags, without those that the command line overrides.
fn flags_of_file(path: &Path, command: &str, given: &ArgMatches) -> Result<Vec<OsString>> {
    let file = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("read config {file}"))?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        anyhow!(
            "config {file}, line {line}: {}",
            error.message().replace('\n', " ")
        )
    })?;
    let cli = Cli::command();
    let known = cli
        .find_subcommand(command)
        .context("unknown command")?
        .clone();
    let (mut flags, mut all) = (Vec::new(), Vec::<OsString>::new());
    for (key, value) in &table {
        let name = key.replace('_', "-");
        let Some(argument) = known
            .get_arguments()
            .find(|argument| argument.get_long() == Some(&name) && name != "config")
        else {
            bail!(
                "config {file}: unknown key `{key}`; keys are named as the flags of `finetune \
                 {command} --help`"
            );
        };
        let of_key = as_flags(&name, value, argument)
            .with_context(|| format!("config {file}, key `{key}`"))?;
        // Parsed alone first: an error then has the file and the key to blame.
        let alone = ["finetune".into(), "--config=-".into()];
        known
            .clone()
            .try_get_matches_from(alone.into_iter().chain(of_key.clone()))
            .map_err(one_line)
            .with_context(|| format!("config {file}, key `{key}`"))?;
        all.extend(of_key.clone());
        let overridden = known.get_arguments().any(|other| {
            given.value_source(other.get_id().as_str()) == Some(ValueSource::CommandLine)
                && (other.get_id() == argument.get_id() || exclude(&known, other, argument))
        });
        if !overridden {
            flags.extend(of_key);
        }
    }
    known
        .clone()
        .try_get_matches_from(
            ["finetune".into(), "--config=-".into()]
                .into_iter()
                .chain(all),
        )
        .map_err(one_line)
        .with_context(|| format!("config {file}"))?;
    Ok(flags)
}

/// Returns whether two flags cannot be given together; clap notes that with either of them.
fn exclude(command: &clap::Command, one: &clap::Arg, other: &clap::Arg) -> bool {
    let noted = |one, other: &clap::Arg| {
        command
            .get_arg_conflicts_with(one)
            .iter()
            .any(|arg| arg.get_id() == other.get_id())
    };
    noted(one, other) || noted(other, one)
}

/// Returns the flags that a key with this value stands for; none for a switch that is off. Of an array each element is a
/// flag where the flag may be given several times.
fn as_flags(name: &str, value: &Value, argument: &clap::Arg) -> Result<Vec<OsString>> {
    let of_value = |value: &Value| {
        let value = plain(value)
            .with_context(|| format!("a {} cannot be a flag's value", value.type_str()))?;
        Ok(format!("--{name}={value}").into())
    };
    let is_repeated = matches!(argument.get_action(), ArgAction::Append)
        && argument.get_value_delimiter().is_none();
    let is_optional = argument
        .get_num_args()
        .is_some_and(|values| values.min_values() == 0);
    match (argument.get_action().takes_values(), value) {
        (false, Value::Boolean(true)) => Ok(vec![format!("--{name}").into()]),
        (false, Value::Boolean(false)) => Ok(Vec::new()),
        // A flag whose value may be left out is a switch as well.
        (true, Value::Boolean(true)) if is_optional => Ok(vec![format!("--{name}").into()]),
        (true, Value::Boolean(false)) if is_optional => Ok(Vec::new()),
        (false, _) => bail!("a switch is true or false, not a {}", value.type_str()),
        (true, Value::Array(values)) if is_repeated => values.iter().map(of_value).collect(),
        (true, _) => Ok(vec![of_value(value)?]),
    }
}

/// Returns a value as it is written on the command line; arrays become comma-separated.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        Value::Array(values) => values
            .iter()
            .map(plain)
            .collect::<Option<Vec<_>>>()
            .map(|parts| parts.join(",")),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}
