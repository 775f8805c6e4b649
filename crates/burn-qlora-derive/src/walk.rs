//! The way through the fields of a struct or an enum.

use std::collections::HashSet;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Fields, Index, Result, Type};

use crate::attributes::{Place, refuse};
use crate::bounds::bounded;

/// A field that is walked into.
struct Step<'a> {
    field: &'a Field,
    /// The field's name or index, as a pattern has it.
    member: TokenStream,
    /// Its part of the path; `None` where it has none.
    name: Option<String>,
}

/// Returns the implementation of `LoraLayers`.
pub fn layers(input: &DeriveInput) -> Result<TokenStream> {
    let shapes = shapes(input)?;
    let arms = |collect: &str| -> Vec<TokenStream> {
        let arm = |(pattern, steps): &(_, Vec<Step>)| arm(pattern, steps, collect);
        shapes.iter().map(arm).collect()
    };
    let (by_reference, by_mutable) = (arms("collect_layers"), arms("collect_layers_mut"));
    let body = quote! {
        #[allow(unused_variables)]
        fn collect_layers<'lora_layer>(
            &'lora_layer self,
            layers: &mut ::burn_qlora::Layers<::burn_qlora::LayerRef<'lora_layer>>,
        ) {
            match self { #(#by_reference)* }
        }

        #[allow(unused_variables)]
        fn collect_layers_mut<'lora_layer>(
            &'lora_layer mut self,
            layers: &mut ::burn_qlora::Layers<::burn_qlora::LayerMut<'lora_layer>>,
        ) {
            match self { #(#by_mutable)* }
        }
    };
    Ok(implementation(input, &quote!(LoraLayers), &body))
}

/// Returns an implementation of `name`, a trait of burn-qlora's, under the bounds that the fields ask for.
pub fn implementation(input: &DeriveInput, name: &TokenStream, body: &TokenStream) -> TokenStream {
    let generics = bounded(&input.generics, &walked_types(&input.data));
    let (parameters, arguments, clause) = generics.split_for_impl();
    let ident = &input.ident;
    quote! {
        #[automatically_derived]
        impl #parameters ::burn_qlora::#name for #ident #arguments #clause {
            #body
        }
    }
}

/// Returns the pattern of the struct, or of each variant, and the fields that are walked into.
fn shapes(input: &DeriveInput) -> Result<Vec<(TokenStream, Vec<Step<'_>>)>> {
    refuse(&input.attrs)?;
    match &input.data {
        Data::Struct(data) => Ok(vec![(quote!(Self), steps(&data.fields, false)?)]),
        Data::Enum(data) if data.variants.is_empty() => Err(Error::new_spanned(
            &input.ident,
            "an enum without variants has no layers",
        )),
        Data::Enum(data) => data
            .variants
            .iter()
            .map(|variant| {
                refuse(&variant.attrs)?;
                let name = &variant.ident;
                let wraps =
                    matches!(&variant.fields, Fields::Unnamed(fields) if fields.unnamed.len() == 1);
                Ok((quote!(Self::#name), steps(&variant.fields, wraps)?))
            })
            .collect(),
        Data::Union(_) => Err(Error::new_spanned(
            &input.ident,
            "the layers of a union are not known; use an enum",
        )),
    }
}

/// Returns the fields that are walked into. Without a name of its own, a field has none if `flat`.
fn steps(fields: &Fields, flat: bool) -> Result<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    let mut names = HashSet::new();
    for (index, field) in fields.iter().enumerate() {
        let (member, own) = match &field.ident {
            Some(ident) => (ident.to_token_stream(), ident.unraw().to_string()),
            None => (Index::from(index).to_token_stream(), index.to_string()),
        };
        let name = match Place::of(field)? {
            Place::Skipped => continue,
            Place::Flat => None,
            Place::Named(name) => Some(name),
            Place::Own => (!flat).then_some(own),
        };
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            let message =
                format!("another field is called `{name}` too; give one of them its own name");
            return Err(Error::new_spanned(&member, message));
        }
        steps.push(Step {
            field,
            member,
            name,
        });
    }
    Ok(steps)
}

/// Returns the arm of a match that walks into `steps`, by the method `collect` of `LoraLayers`.
fn arm(pattern: &TokenStream, steps: &[Step], collect: &str) -> TokenStream {
    let collect = format_ident!("{collect}");
    let mut bindings = Vec::with_capacity(steps.len());
    let mut calls = Vec::with_capacity(steps.len());
    for (
        index,
        Step {
            field,
            member,
            name,
        },
    ) in steps.iter().enumerate()
    {
        // What the type lacks is told at the type.
        let span = Span::call_site().located_at(field.ty.span());
        let binding = format_ident!("field_{index}", span = span);
        bindings.push(quote!(#member: #binding,));
        calls.push(match name {
            Some(name) => quote_spanned!(span=> layers.below(#name, #binding);),
            None => quote_spanned!(span=> ::burn_qlora::LoraLayers::#collect(#binding, layers);),
        });
    }
    quote!(#pattern { #(#bindings)* .. } => { #(#calls)* })
}

/// Returns the types of all fields that are walked into.
fn walked_types(data: &Data) -> Vec<&Type> {
    let fields: Vec<&Field> = match data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data
            .variants
            .iter()
            .flat_map(|variant| &variant.fields)
            .collect(),
        Data::Union(_) => Vec::new(),
    };
    let walked = fields
        .into_iter()
        .filter(|field| !matches!(Place::of(field), Ok(Place::Skipped)));
    walked.map(|field| &field.ty).collect()
}
