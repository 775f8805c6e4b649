// What the macros name of burn-qlora.

extern crate self as burn_qlora;

pub use burn_qlora_derive::{LoraLayers, LoraModel};

pub struct Layer;
pub struct LayerRef<'a>(pub &'a Layer);
pub struct LayerMut<'a>(pub &'a mut Layer);
pub struct Layers<L>(pub Vec<L>);

impl<'a> Layers<LayerRef<'a>> {
    pub fn below<M: LoraLayers + ?Sized>(&mut self, _: &str, module: &'a M) {
        module.collect_layers(self);
    }
}

impl<'a> Layers<LayerMut<'a>> {
    pub fn below<M: LoraLayers + ?Sized>(&mut self, _: &str, module: &'a mut M) {
        module.collect_layers_mut(self);
    }
}

#[diagnostic::on_unimplemented(message = "`{Self}` has no layers", label = "here")]
pub trait LoraLayers {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>);
    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>);
}

pub trait LoraModel: LoraLayers {}

impl LoraLayers for Layer {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
        layers.0.push(LayerRef(self));
    }

    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
        layers.0.push(LayerMut(self));
    }
}
