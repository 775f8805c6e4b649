//! Readers of other libraries, which may panic on damaged input.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work`, which hands input that nobody has checked to another library, and returns a panic of that library as
/// its message. The panic prints nothing: from the first call on, the process's panic hook passes over panics under
/// this function and leaves all others to the hook that it found.
///
/// What `work` changes and panics over is in no state to be used again.
///
/// # Errors
/// The message of the panic.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let found = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                found(panic);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| text.to_string());
        text.or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_returned_as_its_message() {
        assert_eq!(catch_panic(|| 3), Ok(3));
        let message = catch_panic(|| "x".parse::<u8>().expect("no byte")).unwrap_err();
        assert!(message.starts_with("no byte"), "{message}");
        let message = catch_panic(|| catch_panic(|| 1).map(|one| [0; 1][one])).unwrap_err();
        assert!(message.contains("index out of bounds"), "{message}");
        assert!(!QUIET.get());
    }
}
