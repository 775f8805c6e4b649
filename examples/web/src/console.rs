use log::{LevelFilter, Log, Metadata, Record};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

/// Writes what libraries log as errors: a kernel that the browser does not compile is told nowhere else.
struct Console;

impl Log for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            error(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Has errors and panics written to the console, when the program starts.
#[wasm_bindgen(start)]
fn listen() {
    static CONSOLE: Console = Console;
    if log::set_logger(&CONSOLE).is_ok() {
        log::set_max_level(LevelFilter::Error);
    }
    std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
}
