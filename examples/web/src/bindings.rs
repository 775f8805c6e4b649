use burn_qlora::peft::AdapterFiles;
use wasm_bindgen::prelude::*;

use crate::processor::Processor;
use crate::session::Session;

/// A [`Processor`] as JavaScript sees it.
#[wasm_bindgen]
#[derive(Debug)]
pub struct ComputeDevice(Processor);

#[wasm_bindgen]
impl ComputeDevice {
    /// See [`Processor::cpu`].
    pub fn cpu() -> ComputeDevice {
        Self(Processor::cpu())
    }
}

#[cfg(feature = "wgpu")]
#[wasm_bindgen]
impl ComputeDevice {
    /// See [`Processor::gpu`].
    ///
    /// # Errors
    /// Those of [`Processor::gpu`].
    pub async fn gpu() -> Result<ComputeDevice, JsError> {
        Ok(Self(Processor::gpu().await?))
    }
}

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
        device: &ComputeDevice,
    ) -> Result<FineTuning, JsError> {
        let session = Session::open(name, gguf, text, context, rank, learning_rate, &device.0)?;
        Ok(Self(session))
    }

    /// See [`Session::step`].
    ///
    /// # Errors
    /// Those of [`Session::step`].
    pub async fn step(&mut self) -> Result<f64, JsError> {
        Ok(self.0.step().await?)
    }

    /// See [`Session::answer`].
    ///
    /// # Errors
    /// Those of [`Session::answer`].
    pub async fn answer(&self, prompt: &str, tokens: usize) -> Result<String, JsError> {
        Ok(self.0.answer(prompt, tokens).await?)
    }

    /// See [`Session::adapter`].
    ///
    /// # Errors
    /// Those of [`Session::adapter`].
    pub async fn adapter(&self) -> Result<Adapter, JsError> {
        Ok(Adapter(self.0.adapter().await?))
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
