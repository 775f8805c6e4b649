//! NVIDIA's driver, of which the program loads one library at run time.

use std::ffi::CStr;

/// The library's name as the driver's packages install it.
pub const LIBRARY: &CStr = c"libcuda.so.1";

/// Tells why the driver's library cannot be loaded, if so. Where libraries are loaded in another way than on Unix, nothing is
/// said about it.
///
/// # Errors
/// A line that names the library, the loader's reason and the way out.
#[cfg(unix)]
pub fn check(library: &CStr) -> Result<(), String> {
    // SAFETY: the name ends with a zero. The library is the driver's own, which is loaded next if this succeeds, and stays.
    if !unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY) }.is_null() {
        return Ok(());
    }
    // SAFETY: the call that has failed on this thread was the last one to the loader.
    let said = unsafe { libc::dlerror() };
    let reason = if said.is_null() {
        String::new()
    } else {
        // SAFETY: the loader's message ends with a zero and stays until the next call to it on this thread.
        let said = unsafe { CStr::from_ptr(said) };
        format!(" ({})", said.to_string_lossy())
    };
    let library = library.to_string_lossy();
    Err(format!(
        "NVIDIA's driver library {library} cannot be loaded{reason}; install the driver, in a container start it with the GPU \
         (`--gpus all`), or name another device with --device"
    ))
}

/// Says nothing.
#[cfg(not(unix))]
pub fn check(_library: &CStr) -> Result<(), String> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_is_one_line_that_names_the_library() {
        let error = check(c"libcuda-of-no-driver.so.1").unwrap_err();
        assert!(
            error.starts_with(
                "NVIDIA's driver library libcuda-of-no-driver.so.1 cannot be loaded ("
            )
        );
        assert!(error.contains("install the driver"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_library_that_is_there_is_no_error() {
        assert_eq!(check(c"libc.so.6"), Ok(()));
    }
}
