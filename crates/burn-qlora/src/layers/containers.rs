//! The layers of what holds modules. An element's name is its index.

use crate::layers::{LayerMut, LayerRef, Layers, LoraLayers};

/// The layers of the module that may be there, as if it were there alone.
impl<M: LoraLayers> LoraLayers for Option<M> {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
        if let Some(module) = self {
            module.collect_layers(layers);
        }
    }

    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
        if let Some(module) = self {
            module.collect_layers_mut(layers);
        }
    }
}

impl<M: LoraLayers> LoraLayers for [M] {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
        for (index, module) in self.iter().enumerate() {
            layers.below(&index.to_string(), module);
        }
    }

    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
        for (index, module) in self.iter_mut().enumerate() {
            layers.below(&index.to_string(), module);
        }
    }
}

impl<M: LoraLayers> LoraLayers for Vec<M> {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
        self.as_slice().collect_layers(layers);
    }

    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
        self.as_mut_slice().collect_layers_mut(layers);
    }
}

impl<M: LoraLayers, const N: usize> LoraLayers for [M; N] {
    fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
        self.as_slice().collect_layers(layers);
    }

    fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
        self.as_mut_slice().collect_layers_mut(layers);
    }
}

macro_rules! tuple {
    ($($module:ident $index:tt),*) => {
        impl<$($module: LoraLayers),*> LoraLayers for ($($module,)*) {
            fn collect_layers<'a>(&'a self, layers: &mut Layers<LayerRef<'a>>) {
                $(layers.below(stringify!($index), &self.$index);)*
            }

            fn collect_layers_mut<'a>(&'a mut self, layers: &mut Layers<LayerMut<'a>>) {
                $(layers.below(stringify!($index), &mut self.$index);)*
            }
        }
    };
}

// As many as Burn has modules of.
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
