//! The properties of a CUDA device by which CubeCL chooses and compiles kernels, for devices that are not there.

use cubecl::cmma::MatrixLayout;
use cubecl::cuda::CudaCompilationOptions;
use cubecl::ir::features::{Plane, TypeUsage};
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{
    ContiguousElements, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    MemoryDeviceProperties, MmaProperties, TargetProperties, VectorSize,
};
use cubecl::profile::TimingMethod;
use cubecl_common::device::DeviceId;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::{CudaCmmaCompiler, manual::contiguous_elements_cuda};
use cubecl_cpp::cuda::supported_mma_combinations;
use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::{
    CompilationOptions, CppSupportedFeatures, register_mma_features, register_wmma_features,
};

/// A generation of devices, by one that represents it.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// Compute capability times ten.
    pub version: u32,
    name: &'static str,
    multiprocessors: u32,
    /// Bytes of shared memory that a block may ask for.
    shared_memory: usize,
}

/// The generations, with the figures of NVIDIA's tuning guides.
pub const ARCHITECTURES: [Architecture; 3] = [
    Architecture {
        version: 80,
        name: "A100",
        multiprocessors: 108,
        shared_memory: 163 << 10,
    },
    Architecture {
        version: 90,
        name: "H100",
        multiprocessors: 132,
        shared_memory: 227 << 10,
    },
    Architecture {
        version: 120,
        name: "RTX 5090",
        multiprocessors: 170,
        shared_memory: 99 << 10,
    },
];

/// Cards whose time `ROOFLINE.md` predicts.
pub const PREDICTED: [Architecture; 2] = [
    Architecture {
        version: 89,
        name: "RTX 4090",
        multiprocessors: 128,
        shared_memory: 99 << 10,
    },
    ARCHITECTURES[1],
];

impl Architecture {
    pub fn device_id(&self) -> DeviceId {
        DeviceId {
            type_id: 0,
            index_id: self.version as u16,
        }
    }

    /// Returns the properties that cubecl-cuda registers, less what its compiler through LLVM, the one a stock
    /// Burn uses, does not lower: tensor memory accelerator, clusters, asynchronous copies and matrix
    /// instructions of other types than floats of 16 and 32 bits.
    pub fn properties(&self) -> DeviceProperties {
        let hardware = HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: 1024,
            max_shared_memory_size: self.shared_memory,
            max_cube_count: (i32::MAX as u32, 65535, 65535),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: Some(self.multiprocessors),
            num_tensor_cores: (self.version <= 100).then_some(4),
            min_tensor_cores_dim: Some(8),
            num_cpu_cores: None,
            last_level_cache_size: None,
            max_vector_size: VectorSize::MAX,
            cube_mma_reserved_shared_memory: 0,
        };
        let mut properties = DeviceProperties::new(
            Default::default(),
            MemoryDeviceProperties::new(4 << 30, 512),
            hardware,
            TimingMethod::Device,
            DeviceIdentity {
                name: self.name.to_string(),
                fingerprint: format!("ptx_sm{}", self.version),
                physical: None,
            },
        );
        register_supported_types(&mut properties);
        let tf32 = ElemType::Float(FloatKind::TF32);
        properties.register_type_usage(tf32, TypeUsage::Conversion);

        let architecture = CudaArchitecture {
            version: self.version,
            tensor_cores: true,
        };
        let cmma = CudaCmmaCompiler::Cpp.supported_cmma_combinations(&architecture);
        register_wmma_features(cmma, &mut properties);
        register_mma_features(supported_mma_combinations(&architecture), &mut properties);
        let lowered = |dtype| {
            use FloatKind::{BF16, F16, TF32};
            [F16, BF16, TF32].map(ElemType::Float).contains(&dtype)
        };
        let halves = [FloatKind::F16, FloatKind::BF16].map(ElemType::Float);
        let features = &mut properties.features;
        features.matmul.cmma.retain(|form| lowered(form.a_type));
        features.matmul.mma.retain(|form| lowered(form.a_type));
        features.matmul.ldmatrix.extend(halves);
        if self.version >= 90 {
            features.matmul.stmatrix.extend(halves);
        }
        features.plane.insert(Plane::Sync);
        features.plane.insert(Plane::Ops);
        features.plane.insert(Plane::NonUniformControlFlow);
        features.memory_reinterpret = true;
        features.alignment = true;
        features.device_memory_scope = true;
        properties
    }

    /// Returns the options that cubecl-cuda compiles for the device with; of PTX LLVM takes the oldest version that has it.
    pub fn compilation_options(&self) -> CudaCompilationOptions {
        let cpp = CompilationOptions {
            warp_size: 32,
            supports_features: CppSupportedFeatures {
                grid_constants: true,
                clusters: self.version >= 90,
                fast_math: true,
                fast_tanh: true,
                elect_sync: self.version >= 90,
                dp4a: true,
            },
            ..Default::default()
        };
        CudaCompilationOptions {
            cpp,
            arch: Some(SmArch::new(self.version, true)),
            ptx_version: None,
        }
    }
}

/// Returns the layout of matrix instructions in registers, the same on all of them.
pub fn target_properties() -> TargetProperties {
    TargetProperties {
        mma: MmaProperties {
            register_size_bits: 32,
            const_plane_size: 32,
            register_layout_a: MatrixLayout::RowMajor,
            register_layout_b: MatrixLayout::ColMajor,
            register_layout_acc: MatrixLayout::RowMajor,
            register_duplication_a: 1,
            register_duplication_b: 1,
            register_duplication_acc: 1,
            contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
        },
    }
}
