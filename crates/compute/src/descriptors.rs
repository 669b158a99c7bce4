//! How many files a role may have open, and what it does when it has as many.
//!
//! A shell gives its programs 1,024, which is meant for programs that use `select`; an agent has a connection for each
//! backend and a file for each relation that is being filled. Roles take as many as they are allowed. PostgreSQL and
//! what it starts get the number that `quire up` was started with, as they would without Quire.

use crate::Error;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The soft limit that this process was started with.
static INHERITED: OnceLock<rlim_t> = OnceLock::new();

/// How often a lack of descriptors is told.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Raises the limit of this process as far as it is allowed. Where that fails, what was enough so far has to be.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        INHERITED.get_or_init(|| soft);
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Between fork and exec: gives a child the limit that this process was started with.
pub(crate) fn restore_limit(inherited: Option<rlim_t>) -> io::Result<()> {
    let Some(soft) = inherited else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
}

/// The soft limit that this process was started with, if it was raised.
pub(crate) fn inherited_limit() -> Option<rlim_t> {
    INHERITED.get().copied()
}

/// At most so many files of a kind that can be closed at any time: a part of what is allowed.
pub(crate) fn share(files_max: usize) -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(rlim_t::MAX, |(soft, _)| soft);
    usize::try_from(soft / 8).unwrap_or(usize::MAX).clamp(1, files_max)
}

/// Whether an error says that too many files are open, here or on the machine: others may be closed.
pub fn is_lack(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// As [`is_lack`], of what went wrong in a compute.
pub(crate) fn is_lack_in(error: &Error) -> bool {
    match error {
        Error::File { source, .. } | Error::System(_, source) => is_lack(source),
        _ => false,
    }
}

/// What may be told now and then.
#[derive(Debug, Default)]
pub struct Seldom {
    told: Option<Instant>,
}

impl Seldom {
    /// Whether it is time to tell it again.
    pub fn is_time(&mut self) -> bool {
        let is_time = self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL);
        if is_time {
            self.told = Some(Instant::now());
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_told_from_other_errors_and_seldom() {
        assert!(is_lack(&Errno::EMFILE.into()) && is_lack(&Errno::ENFILE.into()) && !is_lack(&Errno::EIO.into()));
        let mut seldom = Seldom::default();
        assert_eq!([(); 3].map(|()| seldom.is_time()), [true, false, false]);
    }
}
