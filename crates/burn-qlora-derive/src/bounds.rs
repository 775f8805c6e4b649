//! What is asked of generic parameters.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{GenericArgument, Generics, PathArguments, Type, parse_quote};

/// Returns `generics` with a bound on every parameter that one of `types` is made of.
pub fn bounded(generics: &Generics, types: &[&Type]) -> Generics {
    let mut bounded = generics.clone();
    for parameter in generics.type_params() {
        let name = &parameter.ident;
        if types.iter().any(|ty| holds(ty, name)) {
            let predicates = &mut bounded.make_where_clause().predicates;
            predicates.push(parse_quote!(#name: ::burn_qlora::LoraLayers));
        }
    }
    bounded
}

/// Returns whether a value of type `ty` can hold one of the type `parameter`. A `PhantomData` holds nothing.
fn holds(ty: &Type, parameter: &Ident) -> bool {
    let Type::Path(path) = ty else {
        return mentions(ty.to_token_stream(), parameter);
    };
    let segments = &path.path.segments;
    if segments
        .last()
        .is_some_and(|last| last.ident == "PhantomData")
    {
        return false;
    }
    segments.iter().any(|segment| {
        segment.ident == *parameter || match &segment.arguments {
            PathArguments::AngleBracketed(list) => list.args.iter().any(
                |argument| matches!(argument, GenericArgument::Type(ty) if holds(ty, parameter)),
            ),
            _ => false,
        }
    })
}

fn mentions(tokens: TokenStream, parameter: &Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == *parameter,
        TokenTree::Group(group) => mentions(group.stream(), parameter),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_on_parameters_that_fields_hold() {
        let generics: Generics = parse_quote!(<'a, A, B, C, D, const N: usize>);
        let types: [Type; 3] = [
            parse_quote!([Vec<Option<A>>; N]),
            parse_quote!((usize, B)),
            parse_quote!(core::marker::PhantomData<C>),
        ];
        let bounded = bounded(&generics, &types.each_ref());
        let clause = bounded.where_clause.to_token_stream().to_string();
        let expected: syn::WhereClause =
            parse_quote!(where A: ::burn_qlora::LoraLayers, B: ::burn_qlora::LoraLayers);
        assert_eq!(clause, expected.to_token_stream().to_string());
    }
}
