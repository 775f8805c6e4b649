include!("traits.rs");

#[derive(LoraModel)]
#[lora(name = "model")] //~ `lora` stands on fields: it says how one is called in the paths of its layers
pub struct OnTheStruct {
    q: Layer,
}

#[derive(LoraModel)]
pub enum OnAVariant {
    #[lora(skip)] //~ `lora` stands on fields: it says how one is called in the paths of its layers
    Q(Layer),
}

#[derive(LoraModel)]
pub struct Unknown {
    q: Layer,
    #[lora(rename = "k")] //~ expected `name = "..."`, `flatten` or `skip`
    k: Layer,
}

#[derive(LoraModel)]
pub struct WithoutAName {
    #[lora(name = "")] //~ a name is one level or several joined by dots, such as `model.layers`; `#[lora(flatten)]` leaves it out
    q: Layer,
}

#[derive(LoraModel)]
pub struct NotAName {
    #[lora(name = 3)] //~ expected string literal
    q: Layer,
}

#[derive(LoraModel)]
pub struct TwoAtOnce {
    #[lora(skip, name = "q")] //~ `name`, `flatten` and `skip` exclude each other
    q: Layer,
}

#[derive(LoraModel)]
pub struct TwoOfAName {
    q: Layer,
    #[lora(name = "q")]
    k: Layer, //~ another field is called `q` too; give one of them its own name
}

#[derive(LoraModel)]
pub enum Nothing {} //~ an enum without variants has no layers

#[derive(LoraModel)]
pub union Either { //~ the layers of a union are not known; use an enum
    q: u32,
}
