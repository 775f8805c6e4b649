//! QLoRA in a browser: a model's GGUF file is brought to 4 bits as it is read, adapters are trained on a text, one step a call,
//! and come back as the two files of a peft adapter. The page in `page/` calls this from a worker.
//!
//! Everything runs on Flex, Burn's backend in pure Rust, so the browser needs no GPU and no flag.

mod session;

pub use session::{Session, SessionError};

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

    /// Returns the text of `adapter_config.json`.
    ///
    /// # Errors
    /// Those of [`Session::adapter`].
    #[wasm_bindgen(js_name = adapterConfig)]
    pub fn adapter_config(&self) -> Result<String, JsError> {
        Ok(self.0.adapter()?.config)
    }

    /// Returns the bytes of `adapter_model.safetensors`.
    ///
    /// # Errors
    /// Those of [`Session::adapter`].
    #[wasm_bindgen(js_name = adapterWeights)]
    pub fn adapter_weights(&self) -> Result<Vec<u8>, JsError> {
        Ok(self.0.adapter()?.weights)
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
