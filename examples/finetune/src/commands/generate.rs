//! `finetune generate`: the model writes, token by token.

use std::io::{self, BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow};
use burn_finetune::{ChatTemplate, Message};
use burn_qlora_llama::{Decoder, SamplingConfig};
use tokenizers::Tokenizer;

use crate::console::tell;
use crate::opened_model::OpenedModel;
use crate::run::{GenerateRun, Input};

/// Continues a prompt, or chats until the input ends.
///
/// # Errors
/// Whatever is wrong with the model or the adapter; a prompt longer than the model's context; a device that fails.
pub fn run(run: &GenerateRun) -> Result<()> {
    let opened = OpenedModel::open(&run.model)?;
    let conversation = match &run.input {
        Input::Prompt(prompt) => Conversation::Prompt(prompt),
        Input::Chat { system } => {
            let template = opened.template.as_ref().with_context(|| {
                format!(
                    "model {} has no chat template; name one with --chat-template, or give a --prompt",
                    opened.checkpoint.path().display()
                )
            })?;
            Conversation::Chat(template, system.as_deref())
        }
    };
    let llama = opened.load_with_adapter(run.adapter.as_deref(), &run.model.device)?;
    let writer = Writer {
        llama: &llama,
        tokenizer: &opened.tokenizer,
        sampling: &run.sampling,
        seed: run.seed,
    };
    match conversation {
        Conversation::Prompt(prompt) => {
            let ids = opened.texts().prompt(prompt)?;
            writer.write(&ids, 0).map(drop)
        }
        Conversation::Chat(template, system) => chat(&writer, template, system),
    }
}

/// An [`Input`] that the model can be given.
enum Conversation<'a> {
    Prompt(&'a str),
    Chat(&'a ChatTemplate, Option<&'a str>),
}

/// The model with all that is needed to let it write.
struct Writer<'a> {
    llama: &'a Decoder,
    tokenizer: &'a Tokenizer,
    sampling: &'a SamplingConfig,
    seed: u64,
}

impl Writer<'_> {
    /// Prints the continuation of `prompt` as it comes, and returns it. `turn` makes the draws of one
    /// turn of a chat other than those of the next.
    fn write(&self, prompt: &[u32], turn: u64) -> Result<String> {
        let mut stream = self.tokenizer.decode_stream(true);
        let mut written = String::new();
        let mut failed = None;
        let mut show = |token| -> Result<()> {
            let piece = stream
                .step(token)
                .map_err(|error| anyhow!("tokenizer: {error}"))?;
            if let Some(piece) = piece {
                print(&piece)?;
                written += &piece;
            }
            Ok(())
        };
        let seed = self.seed.wrapping_add(turn);
        self.llama
            .generate(prompt, self.sampling, seed, |token| match show(token) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            })?;
        if let Some(error) = failed {
            return Err(error);
        }
        print("\n")?;
        Ok(written)
    }
}

/// Answers line by line. Ends with the input.
fn chat(writer: &Writer<'_>, template: &ChatTemplate, system: Option<&str>) -> Result<()> {
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
        let mut ids = encode(writer.tokenizer, &template.render(&messages, true)?)?;
        // The oldest turns go when the conversation has outgrown the model, room for an answer kept.
        while ids.len() + writer.sampling.max_tokens.min(context / 2) > context
            && messages.len() > first_turn + 2
        {
            messages.drain(first_turn..first_turn + 2);
            ids = encode(writer.tokenizer, &template.render(&messages, true)?)?;
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

/// Returns the tokens of a rendered text, in which the template has written the special ones.
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode(text, false);
    Ok(encoding
        .map_err(|error| anyhow!("tokenizer: {error}"))?
        .get_ids()
        .to_vec())
}

/// Writes to stdout at once.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("write the text")
}
