//! What goes to stderr: log lines of roles and the supervisor, and one line where a bug ended a command.

use std::any::Any;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The environment variable that filters log lines, in the syntax of `RUST_LOG`.
const FILTER_VARIABLE: &str = "QUIRE_LOG";

/// Writes log lines of this process to stderr, from `info` up unless the environment says otherwise.
pub fn start() {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// A bug is reported in one line with its place, which is what a report needs.
pub fn replace_panic_text() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic_text(panic.payload());
        eprintln!("quire: internal error at {place}: {text}; please report this line");
    }));
}

fn panic_text(payload: &dyn Any) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

/// A command whose output is piped into something that stops reading ends quietly, as others do.
pub fn end_quietly_on_closed_pipe() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: SIG_DFL is no handler of ours, so nothing runs in signal context.
    let restored = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    debug_assert!(restored.is_ok());
}
