//! The panic hook of every process.

use crate::notes::{self, Note};
use crate::work;
use std::any::Any;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where this process keeps its notes, if it is a role.
static DIR: OnceLock<PathBuf> = OnceLock::new();

/// Has a panic say in one line on stderr what a report needs. The process is built to abort after that.
pub fn install() {
    std::panic::set_hook(Box::new(report));
}

/// Has notes of panics be kept in a role's directory from now on.
pub fn keep_notes_in(dir: &Path) {
    // A process is one role.
    let _ = DIR.set(dir.to_owned());
}

fn report(panic: &PanicHookInfo<'_>) {
    let note = Note {
        place: panic.location().map(ToString::to_string).unwrap_or_default(),
        text: text(panic.payload()).to_owned(),
        thread: std::thread::current().name().unwrap_or_default().to_owned(),
        work: work::current(),
    };
    let noted = DIR.get().map(|dir| notes::write(dir, &note));
    // There may be no listener any more, which must not be another panic.
    let mut stderr = io::stderr();
    let _ = writeln!(stderr, "quire: internal error at {}: {}; please report this line", note.place, note.text);
    let _ = match noted {
        Some(Ok(path)) => writeln!(stderr, "quire: noted in {}", path.display()),
        Some(Err(error)) => writeln!(stderr, "quire: cannot note it: {error}"),
        None => Ok(()),
    };
}

fn text(payload: &dyn Any) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}
