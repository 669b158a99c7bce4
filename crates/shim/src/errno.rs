//! Errors as libc's callers expect them.

use libc::{c_int, c_void};

/// An error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub c_int);

impl Errno {
    /// What the last failed call of this thread left.
    pub fn last() -> Errno {
        // SAFETY: the address is this thread's own and always valid.
        Errno(unsafe { *libc::__errno_location() })
    }

    /// Leaves this for the caller to find.
    pub fn set(self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 }
    }

    /// Leaves this for the caller to find, and gives what the function returns when it fails.
    pub fn fail<R: Failure>(self) -> R {
        self.set();
        R::FAILED
    }
}

/// What a function of this return type returns when it fails.
pub trait Failure {
    /// The value.
    const FAILED: Self;
}

impl Failure for c_int {
    const FAILED: c_int = -1;
}

impl Failure for isize {
    const FAILED: isize = -1;
}

impl Failure for i64 {
    const FAILED: i64 = -1;
}

impl Failure for *mut c_void {
    const FAILED: *mut c_void = std::ptr::null_mut();
}

impl Failure for *mut libc::DIR {
    const FAILED: *mut libc::DIR = std::ptr::null_mut();
}

impl Failure for *mut libc::FILE {
    const FAILED: *mut libc::FILE = std::ptr::null_mut();
}

/// Does work of the shim's own without disturbing `errno`: PostgreSQL looks at it after short writes too.
pub fn preserved<R>(work: impl FnOnce() -> R) -> R {
    let before = Errno::last();
    let result = work();
    before.set();
    result
}
