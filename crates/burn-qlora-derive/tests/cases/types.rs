include!("traits.rs");

pub struct Settings;

#[derive(LoraModel)]
pub struct Net {
    q: Layer,
    settings: Settings, //~ `Settings` has no layers: here
}

#[derive(LoraModel)]
pub enum Either {
    Q(Layer),
    Settings(
        Settings, //~ `Settings` has no layers: here
    ),
}

#[derive(LoraModel)]
pub struct Generic<T> {
    inner: T,
}

pub fn use_of_the_bound(net: &Generic<Settings>) -> &dyn LoraLayers {
    net //~ `Settings` has no layers: here
}
