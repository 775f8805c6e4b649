//! QLoRA in a browser: a model's GGUF file is brought to 4 bits as it is read, adapters are trained on a text, one step a call,
//! and come back as the two files of a peft adapter. The page in `page/` calls this from a worker.
//!
//! Everything runs on Flex, Burn's backend in pure Rust, so the browser needs no GPU and no flag.

mod session;

pub use session::{Session, SessionError};

use burn_qlora::peft::AdapterFiles;
use wasm_bindgen::prelude::*;

/// A [`Session`] as JavaScript sees it; errors are JavaScript's, with the same texts.
#[wasm_bindgen]
#[derive(Debug)]
pub struct FineTuning(Session);

#[wasm_bindgen]
impl FineTuning {
    /// See [`Session::open`].
    ///
    /// # Errors
    /// Those of [`Session::open`].
    #[wasm_bindgen(constructor)]
    pub fn new(
        name: &str,
        gguf: Vec<u8>,
        text: &str,
        context: usize,
        rank: usize,
        learning_rate: f64,
    ) -> Result<FineTuning, JsError> {
        let session = Session::open(name, gguf, text, context, rank, learning_rate)?;
        Ok(Self(session))
    }

    /// See [`Session::step`].
    ///
    /// # Errors
    /// Those of [`Session::step`].
    pub fn step(&mut self) -> Result<f64, JsError> {
        Ok(self.0.step()?)
    }

    /// See [`Session::answer`].
    ///
    /// # Errors
    /// Those of [`Session::answer`].
    pub fn answer(&self, prompt: &str, tokens: usize) -> Result<String, JsError> {
        Ok(self.0.answer(prompt, tokens)?)
    }

    /// See [`Session::adapter`].
    ///
    /// # Errors
    /// Those of [`Session::adapter`].
    pub fn adapter(&self) -> Result<Adapter, JsError> {
        Ok(Adapter(self.0.adapter()?))
    }

    /// See [`Session::rows`].
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// See [`Session::trainable`].
    pub fn trainable(&self) -> usize {
        self.0.trainable()
    }
}

/// The files of an adapter as JavaScript sees them.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Adapter(AdapterFiles);

#[wasm_bindgen]
impl Adapter {
    /// Returns the text of `adapter_config.json`.
    #[wasm_bindgen(getter)]
    pub fn config(&self) -> String {
        self.0.config.clone()
    }

    /// Returns the bytes of `adapter_model.safetensors`.
    #[wasm_bindgen(getter)]
    pub fn weights(&self) -> Vec<u8> {
        self.0.weights.clone()
    }
}
