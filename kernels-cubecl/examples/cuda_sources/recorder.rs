//! A server that compiles what it is told to launch and runs nothing.

use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::{Arc, Mutex, PoisonError};

use cubecl::bytes::Bytes;
use cubecl::client::Client;
use cubecl::cuda::compiler::{CudaBackend, CudaCompiler, CudaRepresentation};
use cubecl::future::{self, DynFut};
use cubecl::prelude::CubeCount;
use cubecl::profile::ProfileDuration;
use cubecl::server::{
    BufferBinding, CopyDescriptor, Handle, KernelArguments, KernelResource, ProfileError,
    ProfilingToken, Server, ServerCommunication, ServerError, ServerStorage, ServerUtilities,
};
use cubecl::{CubeKernel, define_kernel};
use cubecl_common::device::{DeviceId, DeviceService, ServiceId};
use cubecl_cpp::shared::CppCompiler;
use cubecl_cpp::target::Cuda;
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::stream::StreamId;
use cubecl_server::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_server::dry_run::LaunchMode;
use cubecl_server::kernel::CompiledKernel;
use cubecl_server::logging::ServerLogger;
use cubecl_server::memory_management::{
    ManagedMemoryHandle, ManagedMemoryId, MemoryAllocationMode, StreamMemoryReport,
};
use cubecl_server::storage::{BytesResource, BytesStorage, ManagedResource};
use serde_json::{Value, json};

use crate::device::{Architecture, target_properties};

/// A kernel as a CUDA device would be given it.
#[derive(Clone, Debug)]
pub struct Launched {
    /// The function to call.
    pub entry: String,
    /// CUDA C++, the same in every run. It tells kernels apart; no device is given it.
    pub source: String,
    /// What a device is given.
    pub ptx: String,
    /// Bytes of shared memory asked for at the launch.
    pub dynamic_shared: usize,
    /// Blocks by dimension.
    pub grid: [u32; 3],
    /// Threads of a block by dimension.
    pub block: [u32; 3],
    buffers: Vec<Buffer>,
    info: Vec<u64>,
    /// Where the part of `info` begins that the kernel is given by address.
    dynamic_info: usize,
}

/// A buffer that a kernel is given.
#[derive(Clone, Debug)]
struct Buffer {
    memory: ManagedMemoryId,
    /// The size of the memory in bytes.
    bytes: u64,
    /// Where the buffer begins in it.
    offset: u64,
}

impl Launched {
    /// Returns the position of `handle` among the kernel's buffers, if it is one.
    pub fn position(&self, handle: &Handle) -> Option<usize> {
        let id = handle.memory.descriptor().id;
        self.buffers.iter().position(|buffer| buffer.memory == id)
    }

    /// Returns the parameters as cubecl-cuda passes them: addresses of buffers, that of the sizes of arrays if there are any, and
    /// scalars by value.
    pub fn parameters(&self) -> Vec<Value> {
        let mut memories: Vec<&ManagedMemoryId> = Vec::new();
        let mut parameters = Vec::new();
        for Buffer {
            memory,
            bytes,
            offset,
        } in &self.buffers
        {
            let known = memories.iter().position(|known| *known == memory);
            let number = known.unwrap_or(memories.len());
            if known.is_none() {
                memories.push(memory);
            }
            parameters
                .push(json!({ "memory": { "number": number, "bytes": bytes, "offset": offset } }));
        }
        if self.dynamic_info < self.info.len() {
            parameters.push(json!({ "words": self.info[self.dynamic_info..] }));
        }
        if !self.info.is_empty() {
            parameters.push(json!({ "value": self.info }));
        }
        parameters
    }
}

type Launches = Vec<Result<Launched, String>>;

/// A device for which kernels are compiled and listed.
pub struct Recorder {
    client: Client,
    launches: Arc<Mutex<Launches>>,
}

impl Recorder {
    pub fn new(architecture: Architecture) -> Self {
        let launches = Arc::default();
        let server = RecordingServer::new(architecture, Arc::clone(&launches));
        Self {
            client: Client::init(architecture.device_id(), server),
            launches,
        }
    }

    /// Returns the result of `launch`, and the kernels that it launches.
    ///
    /// # Errors
    /// The compiler's words on a kernel that it refuses.
    pub fn record<T>(
        &self,
        launch: impl FnOnce(&Client) -> T,
    ) -> Result<(T, Vec<Launched>), String> {
        let result = launch(&self.client);
        future::block_on(self.client.sync()).map_err(|error| error.to_string())?;
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        let kernels = launches.drain(..).collect::<Result<_, _>>()?;
        Ok((result, kernels))
    }
}

#[derive(Debug)]
struct RecordingServer {
    architecture: Architecture,
    utilities: Arc<ServerUtilities>,
    launches: Arc<Mutex<Launches>>,
    /// What LLVM made of a kernel, by its CUDA C++.
    compiled: HashMap<String, Compiled>,
}

/// PTX, and the bytes of shared memory that are asked for at its launch.
type Compiled = (String, usize);

impl RecordingServer {
    fn new(architecture: Architecture, launches: Arc<Mutex<Launches>>) -> Self {
        let (utilities, _) = ServerUtilities::init(
            ServiceId::of::<Self>(architecture.device_id()),
            "cuda",
            architecture.properties(),
            target_properties(),
            Arc::new(ServerLogger::default()),
            ContiguousMemoryLayoutPolicy::new(512),
        );
        Self {
            architecture,
            utilities: Arc::new(utilities),
            launches,
            compiled: HashMap::new(),
        }
    }

    fn compile(
        &mut self,
        kernel: &dyn CubeKernel,
        count: &CubeCount,
        bindings: &KernelArguments,
    ) -> Result<Launched, String> {
        let CubeCount::Static(x, y, z) = *count else {
            return Err(format!("{}: a grid that the device reads", kernel.name()));
        };
        let refused = |error| format!("{}: {error}", kernel.name());
        let named = CompiledKernel::compile(
            kernel,
            define_kernel(kernel).map_err(refused)?,
            &mut CppCompiler::<Cuda>::default(),
            &self.architecture.compilation_options().cpp,
        )
        .map_err(refused)?;
        let source = numbered_by_appearance(&named.source);
        let (ptx, dynamic_shared) = match self.compiled.get(&source) {
            Some(compiled) => compiled.clone(),
            None => {
                let compiled = CompiledKernel::compile(
                    kernel,
                    define_kernel(kernel).map_err(refused)?,
                    &mut CudaCompiler::new(CudaBackend::Llvm),
                    &self.architecture.compilation_options(),
                )
                .map_err(refused)?;
                let Some(CudaRepresentation::Llvm(module)) = compiled.repr else {
                    return Err(format!("{}: LLVM made no PTX", kernel.name()));
                };
                let compiled = (text(&module.ptx), module.shared_memory_size);
                self.compiled.insert(source.clone(), compiled.clone());
                compiled
            }
        };
        let buffers = bindings.resources.iter().map(|resource| {
            let buffer = match resource {
                KernelResource::Buffer(buffer) => buffer,
                KernelResource::TensorMap(map) => &map.binding,
            };
            Buffer {
                memory: buffer.memory.id(),
                bytes: buffer.size,
                offset: buffer.offset_start.unwrap_or(0),
            }
        });

        Ok(Launched {
            entry: named.entrypoint_name,
            source,
            ptx,
            dynamic_shared,
            grid: [x, y, z],
            block: [named.cube_dim.x, named.cube_dim.y, named.cube_dim.z],
            buffers: buffers.collect(),
            info: bindings.info.data.clone(),
            dynamic_info: bindings.info.dynamic_metadata_offset,
        })
    }

    fn holds_nothing() -> ServerError {
        ServerError::Generic {
            reason: "a device that only records holds nothing to read".into(),
            backtrace: BackTrace::capture(),
        }
    }
}

/// Returns the characters before the NUL.
fn text(characters: &[c_char]) -> String {
    let bytes = characters.iter().map(|&character| character as u8);
    let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns `source` with its values (`v12`) numbered in the order in which they appear: the compiler numbers some of them
/// in the order of a hash map.
fn numbered_by_appearance(source: &str) -> String {
    let mut numbers = HashMap::new();
    let mut numbered = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('v') {
        let (before, value) = rest.split_at(at);
        numbered.push_str(before);
        let name = &value[..1 + digits(&value[1..])];
        let begins = !before.ends_with(|last: char| last.is_ascii_alphanumeric());
        if begins && name.len() > 1 {
            let next = numbers.len();
            let number = numbers.entry(name).or_insert(next);
            numbered.push_str(&format!("v{number}"));
        } else {
            numbered.push_str(name);
        }
        rest = &value[name.len()..];
    }
    numbered + rest
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

impl DeviceService for RecordingServer {
    fn init(device: DeviceId) -> Self {
        unreachable!("{device:?} was not registered before its use")
    }

    fn utilities(&self) -> Arc<dyn std::any::Any + Send + Sync> {
        self.utilities.clone()
    }
}

impl ServerCommunication for RecordingServer {}

impl Server for RecordingServer {
    fn initialize_memory(
        &mut self,
        _memory: ManagedMemoryHandle,
        _size: u64,
        _stream: StreamId,
    ) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        self.utilities.clone()
    }

    fn read(
        &mut self,
        _descriptors: Vec<CopyDescriptor>,
        _stream: StreamId,
    ) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        Box::pin(async { Err(Self::holds_nothing()) })
    }

    fn write(&mut self, _descriptors: Vec<(CopyDescriptor, Bytes)>, _stream: StreamId) {}

    fn sync(
        &mut self,
        _handles: Vec<BufferBinding>,
        _stream: StreamId,
    ) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn check(
        &mut self,
        _handles: Vec<BufferBinding>,
        _stream: StreamId,
    ) -> Result<(), ServerError> {
        Ok(())
    }

    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        count: CubeCount,
        bindings: KernelArguments,
        _stream: StreamId,
        _mode: LaunchMode,
    ) {
        let launched = self.compile(&*kernel, &count, &bindings);
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        launches.push(launched);
    }

    fn flush(&mut self, _stream: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_report(&mut self, _stream: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _stream: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn start_profile(&mut self, _stream: StreamId) -> Result<ProfilingToken, ServerError> {
        Err(Self::holds_nothing())
    }

    fn end_profile(
        &mut self,
        _stream: StreamId,
        _token: ProfilingToken,
    ) -> Result<ProfileDuration, ProfileError> {
        Err(ProfileError::Unknown {
            reason: "a device that only records takes no time".into(),
            backtrace: BackTrace::capture(),
        })
    }

    fn allocation_mode(&mut self, _mode: MemoryAllocationMode, _stream: StreamId) {}
}

impl ServerStorage for RecordingServer {
    type Storage = BytesStorage;

    fn get_resource(
        &mut self,
        _binding: BufferBinding,
        _stream: StreamId,
    ) -> Result<ManagedResource<BytesResource>, ServerError> {
        Err(Self::holds_nothing())
    }
}
