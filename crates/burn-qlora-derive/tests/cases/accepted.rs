include!("traits.rs");

pub struct Other;

#[derive(LoraModel)]
pub struct Named<'a, T: Clone, U, const N: usize>
where
    T: Send,
{
    #[lora(name = "model.layers")]
    pub layer: Layer,
    pub r#type: T,
    #[lora(skip)]
    pub held: &'a U,
    pub marker: Marker<U>,
    #[lora(flatten)]
    pub inner: Unit,
    #[lora(skip)]
    other: [Other; N],
}

#[derive(LoraLayers)]
pub struct Pair(pub Layer, #[lora(skip)] pub Other, Unit);

#[derive(LoraLayers)]
pub struct Unit;

#[derive(LoraLayers)]
pub struct Marker<U>(#[lora(skip)] std::marker::PhantomData<U>);

#[derive(LoraModel)]
pub enum Either {
    Wrapped(Layer),
    Renamed(#[lora(name = "inner")] Layer),
    Pair(Layer, Layer),
    Fields { q: Layer, #[lora(skip)] other: Other },
    Nothing,
}

// A structure that a macro writes has names of its own for everything.
macro_rules! block {
    ($name:ident { $($field:ident: $type:ty),* }) => {
        #[derive(LoraModel)]
        pub struct $name {
            $(pub $field: $type),*
        }
    };
}

block!(Block { layers: Layer, field_0: Layer, type_of: Unit });

pub fn model(block: &mut Block) -> &mut dyn LoraModel {
    block
}
