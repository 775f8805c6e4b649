//! The layers of a module, with their paths.
//!
//! - `containers`: the layers of what holds modules
//! - `modules`: modules without layers that could be adapted

mod containers;
mod modules;

use crate::any_linear::AnyLinear;
use crate::linear::QLoraLinear;

/// A module that knows its linear layers.
///
/// `#[derive(LoraLayers)]` implements it by the fields, and so does `#[derive(LoraModel)]`. By hand it is one call of
/// [`Layers::below`] for each part of the module, the same ones in both methods:
///
/// ```
/// use burn_qlora::{AnyLinear, LayerMut, LayerRef, Layers, LoraLayers};
///
/// /// Layers whose names are data.
/// struct Heads {
///     names: Vec<String>,
///     heads: Vec<AnyLinear>,
/// }
///
/// impl LoraLayers for Heads {
///     fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
///         for (name, head) in self.names.iter().zip(&self.heads) {
///             layers.below(name, head);
///         }
///     }
///     fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
///         for (name, head) in self.names.iter().zip(&mut self.heads) {
///             layers.below(name, head);
///         }
///     }
/// }
/// ```
///
/// Implemented are the layers themselves, [`AnyLinear`] and [`QLoraLinear`]; options, vectors, arrays and tuples of modules; and, as
/// modules without such layers, parameters, tensors, numbers and those of Burn's modules that hold no linear layer: embeddings,
/// convolutions, norms, dropout, pooling and activations. Burn's `Linear`, and what is made of it (its attention, transformers and
/// recurrent networks), is not, since it would stay dense without a word: a field of such a type becomes an [`AnyLinear`], or says
/// `#[lora(skip)]`.
///
/// ```compile_fail,E0277
/// # use burn::module::Module;
/// # use burn::nn::Linear;
/// # use burn_qlora::{AnyLinear, LoraModel};
/// #[derive(Module, LoraModel, Debug)]
/// struct Net {
///     body: AnyLinear,
///     head: Linear, // neither an `AnyLinear` nor `#[lora(skip)]`
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which of its layers can carry adapters",
    label = "`burn_qlora::LoraLayers` is not implemented for `{Self}`",
    note = "`#[derive(LoraModel)]` on `{Self}` implements it, `#[lora(skip)]` on the field leaves its layers out; a `Linear` of Burn's \
            that is to be quantized or adapted is an `AnyLinear`"
)]
pub trait LoraLayers {
    /// Adds the layers in here, in the order of the forward pass.
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>);

    /// Adds the same layers in the same order, to be changed.
    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>);
}

/// A linear layer of a model.
#[derive(Clone, Copy, Debug)]
pub enum LayerRef<'a> {
    /// One that is dense or frozen.
    Any(&'a AnyLinear),
    /// One that is frozen, whatever happens.
    QLora(&'a QLoraLinear),
}

/// A linear layer of a model, to be changed.
#[derive(Debug)]
pub enum LayerMut<'a> {
    /// One that is dense or frozen.
    Any(&'a mut AnyLinear),
    /// One that is frozen, whatever happens.
    QLora(&'a mut QLoraLinear),
}

impl<'a> LayerRef<'a> {
    /// Returns the layer if it can carry an adapter, as it cannot while it is dense.
    pub fn adaptable(self) -> Option<&'a QLoraLinear> {
        match self {
            Self::Any(layer) => layer.adaptable(),
            Self::QLora(layer) => Some(layer),
        }
    }
}

impl<'a> LayerMut<'a> {
    /// Returns the layer if it can carry an adapter, as it cannot while it is dense.
    pub fn adaptable(self) -> Option<&'a mut QLoraLinear> {
        match self {
            Self::Any(layer) => layer.adaptable_mut(),
            Self::QLora(layer) => Some(layer),
        }
    }
}

/// The layers found so far, each a [`LayerRef`] or a [`LayerMut`], with their paths.
#[derive(Debug)]
pub struct Layers<L> {
    path: String,
    found: Vec<(String, L)>,
}

impl<'a> Layers<LayerRef<'a>> {
    /// Returns the layers of `module`.
    pub fn of<M: LoraLayers + ?Sized>(module: &'a M) -> Self {
        let mut layers = Self::empty();
        module.collect_layers(&mut layers);
        layers
    }

    /// Adds those of `module`, whose paths go on with `name`: one level, or several joined by dots.
    pub fn below<M: LoraLayers + ?Sized>(&mut self, name: &str, module: &'a M) {
        let above = self.enter(name);
        module.collect_layers(self);
        self.path.truncate(above);
    }
}

impl<'a> Layers<LayerMut<'a>> {
    /// Returns the layers of `module`, to be changed.
    pub fn of_mut<M: LoraLayers + ?Sized>(module: &'a mut M) -> Self {
        let mut layers = Self::empty();
        module.collect_layers_mut(&mut layers);
        layers
    }

    /// Adds those of `module`, whose paths go on with `name`: one level, or several joined by dots.
    pub fn below<M: LoraLayers + ?Sized>(&mut self, name: &str, module: &'a mut M) {
        let above = self.enter(name);
        module.collect_layers_mut(self);
        self.path.truncate(above);
    }
}

impl<L> Layers<L> {
    fn empty() -> Self {
        Self {
            path: String::new(),
            found: Vec::new(),
        }
    }

    /// Adds a layer that is called as the path is.
    fn add(&mut self, layer: L) {
        self.found.push((self.path.clone(), layer));
    }

    /// Goes down the path by `name`, and returns the length it had.
    fn enter(&mut self, name: &str) -> usize {
        let above = self.path.len();
        if above > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        above
    }
}

/// The layers with their paths, in the order of the forward pass.
impl<L> IntoIterator for Layers<L> {
    type Item = (String, L);
    type IntoIter = std::vec::IntoIter<(String, L)>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

impl LoraLayers for AnyLinear {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
        layers.add(LayerRef::Any(self));
    }

    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
        layers.add(LayerMut::Any(self));
    }
}

impl LoraLayers for QLoraLinear {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
        layers.add(LayerRef::QLora(self));
    }

    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
        layers.add(LayerMut::QLora(self));
    }
}
