//! Launch configurations, and the traits of a device that decide them.

use cubecl::features::Plane;
use cubecl::prelude::*;

/// The grid of a launch in which every unit works on `per_unit` neighbouring items.
///
/// Units of a CPU are threads, and its cubes run one after another: there a cube has a unit a core and each takes its share at
/// once. Elsewhere a unit takes one item.
pub(crate) struct LaunchConfig {
    pub(crate) cubes: CubeCount,
    pub(crate) cube_dim: CubeDim,
    pub(crate) per_unit: u32,
}

impl LaunchConfig {
    pub(crate) fn new(client: &Client, items: usize, units: u32) -> Self {
        if let Some(cores) = client.properties().hardware.num_cpu_cores {
            return Self {
                cubes: CubeCount::new_single(),
                cube_dim: CubeDim::new_1d(cores),
                per_unit: items.div_ceil(cores as usize) as u32,
            };
        }
        let cube_dim = CubeDim::new_1d(units);
        Self {
            cubes: cubecl::calculate_cube_count_elemwise(client, items, cube_dim),
            cube_dim,
            per_unit: 1,
        }
    }

    /// Returns the grid of as many launches over `items` as there are `layers`, which lie along the cubes' `y`: what depends on
    /// the layer alone is the same for all units of a cube, and loaded once for them.
    pub(crate) fn in_layers(client: &Client, items: usize, units: u32, layers: usize) -> Self {
        let mut config = Self::new(client, items, units);
        let per_cube = config.cube_dim.x as usize * config.per_unit as usize;
        config.cubes = CubeCount::Static(items.div_ceil(per_cube) as u32, layers as u32, 1);
        config
    }
}

/// Returns whether this is CubeCL's CPU runtime, whose units are threads.
pub(crate) fn is_cpu(client: &Client) -> bool {
    client.properties().hardware.num_cpu_cores.is_some()
}

/// Returns whether this is a software rasterizer, whose planes are a CPU's vectors.
pub(crate) fn is_rasterizer(client: &Client) -> bool {
    let properties = client.properties();
    !is_cpu(client)
        && properties.identity.physical.is_none()
        && properties.hardware.plane_size_max <= 16
}

/// Returns the units of a plane, where planes have operations of their own and one size that is known before a launch.
///
/// None in a browser. It compiles an operation of planes only where it can prove that all units of a plane come there together,
/// and not, for instance, in a loop over the keys that a unit's query sees.
pub(crate) fn plane_size(client: &Client) -> Option<u32> {
    if cfg!(target_family = "wasm") {
        return None;
    }
    let properties = client.properties();
    let hardware = &properties.hardware;
    let fixed = hardware.plane_size_min == hardware.plane_size_max && hardware.plane_size_max > 1;
    (fixed && properties.features.plane.contains(Plane::Ops)).then_some(hardware.plane_size_max)
}

/// Returns the lanes of the widest vector of f32 that `client`'s units compute with, up to `at_most` and a divisor of it.
pub(crate) fn lanes(client: &Client, at_most: usize) -> usize {
    let hardware = &client.properties().hardware;
    (hardware.load_width as usize / 32).clamp(1, at_most)
}
