//! What `#[lora(...)]` says of a field.

use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, Field, Ident, LitStr, Result};

/// The part of a field in the paths of its layers.
#[derive(Debug, PartialEq)]
pub enum Place {
    /// The field as it is called.
    Own,
    /// Another name, of one or more levels.
    Named(String),
    /// None: the layers have the path that the module has.
    Flat,
    /// Its layers are left out.
    Skipped,
}

impl Place {
    /// Returns what the attributes of `field` say. Burn's `#[module(skip)]` leaves a field out here too.
    pub fn of(field: &Field) -> Result<Self> {
        let mut place = None;
        for attribute in &field.attrs {
            if attribute.path().is_ident("lora") {
                attribute.parse_nested_meta(|meta| {
                    let said = Self::parse(&meta)?;
                    if place.replace(said).is_some() {
                        return Err(meta.error("`name`, `flatten` and `skip` exclude each other"));
                    }
                    Ok(())
                })?;
            }
        }
        if field.attrs.iter().any(is_skipped_by_burn) {
            return Ok(Self::Skipped);
        }
        Ok(place.unwrap_or(Self::Own))
    }

    fn parse(meta: &ParseNestedMeta) -> Result<Self> {
        if meta.path.is_ident("skip") {
            Ok(Self::Skipped)
        } else if meta.path.is_ident("flatten") {
            Ok(Self::Flat)
        } else if meta.path.is_ident("name") {
            checked(&meta.value()?.parse()?).map(Self::Named)
        } else {
            Err(meta.error("expected `name = \"...\"`, `flatten` or `skip`"))
        }
    }
}

/// Returns the name if every level of it has one.
fn checked(name: &LitStr) -> Result<String> {
    let value = name.value();
    if value.split('.').any(|level| level.trim().is_empty()) {
        let message = "a name is one level or several joined by dots, such as `model.layers`; \
                       `#[lora(flatten)]` leaves it out";
        return Err(Error::new(name.span(), message));
    }
    Ok(value)
}

fn is_skipped_by_burn(attribute: &Attribute) -> bool {
    let says_skip = |word: Ident| word == "skip";
    attribute.path().is_ident("module") && attribute.parse_args().is_ok_and(says_skip)
}

/// Refuses `#[lora(...)]` where no field stands.
pub fn refuse(attributes: &[Attribute]) -> Result<()> {
    match attributes.iter().find(|it| it.path().is_ident("lora")) {
        Some(attribute) => Err(Error::new_spanned(
            attribute,
            "`lora` stands on fields: it says how one is called in the paths of its layers",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::{Data, DeriveInput, parse_quote};

    fn place(item: DeriveInput) -> Result<Place> {
        let Data::Struct(data) = item.data else {
            panic!("the item should be a struct");
        };
        Place::of(data.fields.iter().next().unwrap())
    }

    #[test]
    fn a_field_says_its_place() {
        let places = [
            (
                parse_quote!(
                    struct A {
                        q: Q,
                    }
                ),
                Place::Own,
            ),
            (
                parse_quote!(
                    struct A {
                        #[lora(name = "model.layers")]
                        q: Q,
                    }
                ),
                Place::Named("model.layers".into()),
            ),
            (
                parse_quote!(
                    struct A {
                        #[lora(flatten)]
                        q: Q,
                    }
                ),
                Place::Flat,
            ),
            (
                parse_quote!(
                    struct A {
                        #[lora(skip)]
                        q: Q,
                    }
                ),
                Place::Skipped,
            ),
            (
                parse_quote!(
                    struct A {
                        #[module(skip)]
                        q: Q,
                    }
                ),
                Place::Skipped,
            ),
        ];
        for (item, expected) in places {
            assert_eq!(place(item).unwrap(), expected);
        }
    }

    #[test]
    fn a_name_has_something_in_every_level() {
        for name in ["", ".", "a.", ".a", "a..b", "a. "] {
            let item = parse_quote!(
                struct A {
                    #[lora(name = #name)]
                    q: Q,
                }
            );
            let error = place(item).unwrap_err().to_string();
            assert!(
                error.starts_with("a name is one level or several"),
                "{error}"
            );
        }
    }
}
