//! Modules and their kernels.

use crate::driver::order::{Access, Handle};
use crate::driver::state::{State, StreamEntry, state};
use crate::driver::{Status, export, put, status};
use crate::machine::{Counters, Launch, Outcome, Program};
use crate::settings::Settings;
use crate::syntax::{Module, VariableSpace};
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::OpenOptions;
use std::io::Write;

/// A module with its variables in the device's memory.
struct Loaded {
    module: Module,
    globals: HashMap<String, u64>,
}

/// Loads a module.
///
/// # Errors
/// [`status::INVALID_PTX`] with a word on stderr, [`status::OUT_OF_MEMORY`].
fn load(text: String) -> Result<Box<Loaded>, Status> {
    let module = Module::parse(&Settings::get().mutated(text)).map_err(|error| {
        eprintln!("ptx-device: {error}");
        status::INVALID_PTX
    })?;
    let mut globals = HashMap::new();
    let in_memory = |space| space == VariableSpace::Global;
    for variable in module.variables.iter().filter(|it| in_memory(it.space)) {
        let address = state().allocate(variable.bytes as u64)?;
        let mut bytes = variable.initial.clone();
        bytes.resize(variable.bytes, 0);
        // SAFETY: that many bytes were just allocated, and nobody else knows of them.
        unsafe { std::ptr::copy(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        globals.insert(variable.name.clone(), address);
    }
    Ok(Box::new(Loaded { module, globals }))
}

/// A line of the log.
#[derive(Serialize)]
struct Entry<'a> {
    kernel: &'a str,
    compute_capability: i32,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    findings: Vec<String>,
    counters: &'a Counters,
}

/// Tells what a launch did.
///
/// # Errors
/// [`status::LAUNCH_FAILED`] where something was found that must not be.
fn report(launch: &Launch<'_>, outcome: &Outcome) -> Result<(), Status> {
    let settings = Settings::get();
    let program = launch.program;
    let told = outcome.findings.iter().map(|finding| {
        let decoded = &program.code[finding.statement];
        let whose = if finding.within_a_warp {
            " of the same warp"
        } else {
            ""
        };
        format!(
            "kernel {}, line {} `{}`: {}{whose}",
            program.name, decoded.line, decoded.text, finding.hazard
        )
    });
    let findings: Vec<String> = told.collect();
    for finding in &findings {
        eprintln!("ptx-device: {finding}");
    }
    if let Some(path) = &settings.log {
        let entry = Entry {
            kernel: &program.name,
            compute_capability: settings.compute_capability,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: program.shared_bytes + launch.dynamic_shared,
            findings: findings.clone(),
            counters: &outcome.counters,
        };
        let written = serde_json::to_string(&entry)
            .map_err(std::io::Error::other)
            .and_then(|line| {
                let mut file = OpenOptions::new().create(true).append(true).open(path)?;
                writeln!(file, "{line}")
            });
        if let Err(error) = written {
            eprintln!("ptx-device: {}: {error}", path.display());
            return Err(status::LAUNCH_FAILED);
        }
    }
    if settings.strict && !findings.is_empty() {
        return Err(status::LAUNCH_FAILED);
    }
    Ok(())
}

/// Runs a kernel while nobody else may touch the device.
fn run(
    state: &mut State,
    program: &Program,
    stream: Handle,
    shape: [[u32; 3]; 2],
    shared: usize,
    parameters: &[u8],
) -> Status {
    if let Some(failed) = state.failed {
        return failed;
    }
    let settings = Settings::get();
    let memory = state.allocations();
    let [grid, block] = shape;
    let launch = Launch {
        program,
        grid,
        block,
        dynamic_shared: shared,
        parameters,
        memory: &memory,
        checked: settings.checked,
        budget: settings.budget_millions * 1_000_000,
    };
    let result = launch.run().map_err(|fault| {
        eprintln!("ptx-device: {fault}");
        status::LAUNCH_FAILED
    });
    let reported = result.and_then(|outcome| report(&launch, &outcome));
    let ordered = reported.and_then(|()| {
        let entry = StreamEntry {
            stream,
            operation: "kernel",
            kernel: Some(&program.name),
            bytes: 0,
        };
        let access = |written| if written { Access::Write } else { Access::Read };
        let used = memory.touched();
        state.queue(
            &entry,
            used.map(|it| (it.begin, it.bytes, access(it.written))),
        )
    });
    match ordered {
        Ok(()) => status::SUCCESS,
        Err(failed) => {
            state.failed = Some(failed);
            failed
        }
    }
}

export! {
    /// Reads a module from a text that ends with a zero.
    fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_char) {
        let text = CStr::from_ptr(image).to_string_lossy().into_owned();
        match load(text) {
            Ok(loaded) => put(module, Box::into_raw(loaded).cast()),
            Err(status) => status,
        }
    }

    /// Reads a module from a text that ends with a zero.
    fn cuModuleLoadDataEx(
        module: *mut *mut c_void,
        image: *const c_char,
        _count: c_uint,
        _options: *mut c_void,
        _values: *mut c_void,
    ) {
        cuModuleLoadData(module, image)
    }

    /// Does nothing: kernels of the module may be in use.
    fn cuModuleUnload(_module: *mut c_void) {
        status::SUCCESS
    }

    /// Gives a kernel of a module, decoded.
    fn cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) {
        let Some(loaded) = module.cast::<Loaded>().as_ref() else {
            return status::INVALID_VALUE;
        };
        let name = CStr::from_ptr(name).to_string_lossy();
        let Some(entry) = loaded.module.entries.get(&*name) else {
            eprintln!("ptx-device: the module has no kernel {name}");
            return status::NOT_FOUND;
        };
        match Program::new(entry, &loaded.globals) {
            // A kernel lives as long as the process, as no call says when its last launch was.
            Ok(program) => put(function, Box::into_raw(Box::new(program)).cast()),
            Err(error) => {
                eprintln!("ptx-device: {error}");
                status::INVALID_PTX
            }
        }
    }

    /// Does nothing: any size of shared memory up to the device's is given.
    fn cuFuncSetAttribute(_function: *mut c_void, _attribute: c_int, _value: c_int) {
        status::SUCCESS
    }

    /// Does nothing.
    fn cuFuncSetCacheConfig(_function: *mut c_void, _config: c_int) {
        status::SUCCESS
    }

    /// Runs a kernel to its end.
    fn cuLaunchKernel(
        function: *mut c_void,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: Handle,
        parameters: *mut *mut c_void,
        _extra: *mut *mut c_void,
    ) {
        let Some(program) = function.cast::<Program>().as_ref() else {
            return status::INVALID_VALUE;
        };
        let mut bytes = vec![0; program.parameter_bytes];
        for (place, (offset, size)) in program.parameters.iter().enumerate() {
            let from: *const u8 = (*parameters.add(place)).cast();
            from.copy_to_nonoverlapping(bytes[*offset..].as_mut_ptr(), *size);
        }
        let shape = [[grid_x, grid_y, grid_z], [block_x, block_y, block_z]];
        run(&mut state(), program, stream, shape, shared as usize, &bytes)
    }
}
