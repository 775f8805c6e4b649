//! The derive macros of `burn-qlora`, which re-exports them: the list of a module's layers that can carry LoRA adapters,
//! with the paths they have in adapter files, written from the module's fields.
//!
//! - `attributes`: what `#[lora(...)]` says of a field
//! - `bounds`: what is asked of generic parameters
//! - `walk`: the way through the fields

mod attributes;
mod bounds;
mod walk;

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

/// Implements `burn_qlora::LoraModel` and, by the fields, `burn_qlora::LoraLayers`, for a struct or an enum.
///
/// The layers are those of all fields, in their order, each by its path: the names of the fields that lead to it, joined by dots,
/// with the index of an element of a `Vec`, an array or a tuple. A variant of an enum with one unnamed field has no name in
/// the path. What has `#[module(skip)]` is left out. Of a field
///
/// - `#[lora(name = "self_attn")]` says another name; one with dots stands for several levels, as `"model.layers"`;
/// - `#[lora(flatten)]` leaves its name out of the path;
/// - `#[lora(skip)]` leaves it out: none of its layers is quantized or gets an adapter.
///
/// A field that implements no `LoraLayers` is an error at that field. A generic parameter in the type of a field that is not
/// skipped must implement `LoraLayers`.
#[proc_macro_derive(LoraModel, attributes(lora))]
pub fn lora_model(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expanded(walk::layers(&input).map(|layers| {
        let model = walk::implementation(&input, &quote!(LoraModel), &quote!());
        quote!(#layers #model)
    }))
}

/// Implements `burn_qlora::LoraLayers` alone, as `LoraModel` does: for parts of a model, and for a model whose `LoraModel` has
/// more to say.
#[proc_macro_derive(LoraLayers, attributes(lora))]
pub fn lora_layers(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expanded(walk::layers(&input))
}

fn expanded(found: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    found.unwrap_or_else(syn::Error::into_compile_error).into()
}
