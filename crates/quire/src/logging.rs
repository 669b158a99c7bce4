//! What goes to stderr: log lines of roles and the supervisor.

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

/// A command whose output is piped into something that stops reading ends quietly, as others do.
pub fn end_quietly_on_closed_pipe() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: SIG_DFL is no handler of ours, so nothing runs in signal context.
    let restored = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    debug_assert!(restored.is_ok());
}
