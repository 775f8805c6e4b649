//! `finetune generate`: the model writes, token by token.

/// How fast it read and wrote.
mod rates;

use std::io::{self, BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow};
use burn_finetune::{ChatTemplate, Message, TextEncoder};
use burn_qlora_llama::{Decoder, SamplingConfig, SeenText};

use crate::console::tell;
use crate::opened_model::{MoreTokens, OpenedModel};
use crate::run::{GenerateRun, Input};
use crate::stop::Stop;
use crate::writing::Writing;
use crate::{system_prompt, trained_on};
use rates::Rates;

/// Continues a prompt, or chats until the input ends.
///
/// # Errors
/// Whatever is wrong with the model or the adapter; a prompt longer than the model's context; a chat template that takes no
/// system prompt when one is given; logits that are no numbers; a device that fails.
pub fn run(run: &GenerateRun) -> Result<()> {
    let trained = run.adapter.as_deref().and_then(trained_on::of_adapter);
    let opened = OpenedModel::open(
        &run.model,
        trained,
        MoreTokens::OfAdapter(run.adapter.as_deref()),
    )?;
    let conversation = match &run.input {
        Input::Prompt(prompt) => Conversation::Prompt(prompt),
        Input::Chat { system } => {
            let template = opened.template.as_ref().with_context(|| {
                format!(
                    "model {} has no chat template; name one with --chat-template, or give a --prompt",
                    opened.checkpoint.path().display()
                )
            })?;
            if let Some(system) = system {
                system_prompt::check(template, system).map_err(|why| {
                    anyhow!(
                        "--system: {why}; leave --system out, or name another template with --chat-template"
                    )
                })?;
            }
            Conversation::Chat(template, system.as_deref())
        }
    };
    let stop = Stop::of(&opened)?;
    let llama = opened.load_with_adapter(run.adapter.as_deref(), &run.model.device)?;
    let sampling = run.sampling.clone();
    let mut writer = Writer {
        llama: &llama,
        texts: opened.texts(),
        sampling: sampling.with_stop_tokens(Some(stop.tokens())),
        stop,
        seed: run.seed,
        lookup: run.lookup,
        rates: Rates::default(),
        seen: None,
    };
    match conversation {
        Conversation::Prompt(prompt) => {
            let ids = writer.texts.prompt(prompt)?;
            writer.write(&ids, 0)?;
        }
        Conversation::Chat(template, system) => chat(&mut writer, template, system)?,
    }
    if writer.rates.any() {
        tell!("{}", writer.rates);
    }
    Ok(())
}

/// An [`Input`] that the model can be given.
enum Conversation<'a> {
    Prompt(&'a str),
    Chat(&'a ChatTemplate, Option<&'a str>),
}

/// The model with all that is needed to let it write.
struct Writer<'a> {
    llama: &'a Decoder,
    texts: TextEncoder<'a>,
    sampling: SamplingConfig,
    stop: Stop,
    seed: u64,
    /// The most tokens that are guessed ahead.
    lookup: Option<usize>,
    rates: Rates,
    /// What the model has seen of the chat.
    seen: Option<SeenText>,
}

impl Writer<'_> {
    /// Prints the continuation of `prompt` as it comes, and returns it. `turn` makes the draws of one
    /// turn of a chat other than those of the next.
    fn write(&mut self, prompt: &[u32], turn: u64) -> Result<String> {
        let mut writing = Writing::new(&self.texts);
        let mut written = String::new();
        let mut failed = None;
        let mut show = |token| -> Result<ControlFlow<()>> {
            let step = writing.step(token, &self.stop)?;
            print(&step.text)?;
            written += &step.text;
            Ok(if step.ended {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        let seed = self.seed.wrapping_add(turn);
        let rates = &mut self.rates;
        let start = self.seen.as_ref().and_then(|seen| seen.start_of(prompt));
        rates.begin(prompt.len() - start.map_or(0, |start| start.tokens()));
        let on_token = |token| {
            rates.token();
            show(token).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        };
        match self.lookup {
            Some(most) => {
                let (_, guesses) = self.llama.generate_with_lookup(
                    prompt,
                    &self.sampling,
                    seed,
                    most,
                    &mut self.seen,
                    on_token,
                )?;
                rates.guesses(guesses);
            }
            None => drop(self.llama.generate_on(
                prompt,
                &self.sampling,
                seed,
                &mut self.seen,
                on_token,
            )?),
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let rest = writing.rest()?;
        print(&format!("{rest}\n"))?;
        Ok(written + &rest)
    }
}

/// Answers line by line. Ends with the input.
fn chat(writer: &mut Writer<'_>, template: &ChatTemplate, system: Option<&str>) -> Result<()> {
    let terminal = io::stdin().is_terminal();
    let context = writer.llama.config().context_len();
    let system = system.map(|text| Message::new("system", text));
    let mut messages: Vec<Message> = system.into_iter().collect();
    let first_turn = messages.len();
    if terminal {
        tell!("Talk to the model; Ctrl-D ends the chat.");
    }
    for turn in 0.. {
        let Some(line) = read_line(terminal)? else {
            break;
        };
        messages.push(Message::new("user", &line));
        let encode = |messages: &[Message]| -> Result<Vec<u32>> {
            Ok(writer.texts.rendered(&template.render(messages, true)?)?)
        };
        let mut ids = encode(&messages)?;
        // The oldest turns go when the conversation has outgrown the model, room for an answer kept.
        while ids.len() + writer.sampling.max_tokens.min(context / 2) > context
            && messages.len() > first_turn + 2
        {
            messages.drain(first_turn..first_turn + 2);
            ids = encode(&messages)?;
        }
        if ids.len() > context {
            messages.pop();
            tell!(
                "warning: with this line there are {} tokens, and the model's context is {context}; it is passed over, say \
                 it shorter",
                ids.len()
            );
            continue;
        }
        let answer = writer.write(&ids, turn)?;
        messages.push(Message::new("assistant", &answer));
    }
    Ok(())
}

/// Reads the next line that is not blank; `None` at the end of the input.
fn read_line(terminal: bool) -> Result<Option<String>> {
    loop {
        if terminal {
            print("> ")?;
        }
        let mut line = String::new();
        if io::stdin()
            .lock()
            .read_line(&mut line)
            .context("read your line")?
            == 0
        {
            return Ok(None);
        }
        let line = line.trim();
        if !line.is_empty() {
            return Ok(Some(line.to_string()));
        }
    }
}

/// Writes to stdout at once.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("write the text")
}
