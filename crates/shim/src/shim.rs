//! What the shim knows of its compute, from the constructor on.

use crate::errno::Errno;
use crate::names::{Buffer, META_PATH_BYTES_MAX};
use crate::withheld::Withheld;
use crate::{process, real};
use quire_cache::layout::{COMPUTE_DIR_BYTES_MAX, CONTROL, META, PGDATA, SOCKET};
use quire_cache::{CacheError, Control, ControlMap};
use std::ffi::{CStr, CString};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// One compute, as seen from one of its PostgreSQL processes.
#[derive(Debug)]
pub struct Shim {
    control: ControlMap,
    /// The data directory's path, and the same with all symbolic links resolved, without the leading slash.
    pgdata: [Buffer; 2],
    pgdata_path: CString,
    links_path: CString,
    meta_root: Vec<u8>,
    socket: Vec<u8>,
    withheld: Option<Withheld>,
}

static SHIM: AtomicPtr<Shim> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the working directory is the data directory, so that relative paths are below it.
static IN_PGDATA: AtomicBool = AtomicBool::new(false);

/// The compute, if there is one: none before the constructor has run, or without `QUIRE_COMPUTE_DIR`.
#[inline]
pub fn current() -> Option<&'static Shim> {
    // SAFETY: null, or a leaked box.
    unsafe { SHIM.load(Ordering::Acquire).as_ref() }
}

/// Why the shim cannot serve a compute.
#[derive(Debug)]
pub enum StartError {
    /// The directory's path cannot be used.
    Path(&'static str),
    /// `control.shm` cannot be used.
    Control(CacheError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Path(why) => write!(f, "QUIRE_COMPUTE_DIR {why}"),
            StartError::Control(error) => write!(f, "control.shm: {error}"),
        }
    }
}

impl Shim {
    /// Makes the compute whose directory is `root` the current one. Called once, by the constructor.
    pub fn start(root: &[u8]) -> Result<(), StartError> {
        let shim = Shim::new(root)?;
        SHIM.store(Box::into_raw(Box::new(shim)), Ordering::Release);
        look_at_working_directory();
        Ok(())
    }

    fn new(root: &[u8]) -> Result<Shim, StartError> {
        if root.first() != Some(&b'/') {
            return Err(StartError::Path("is not an absolute path"));
        }
        if root.len() > COMPUTE_DIR_BYTES_MAX {
            return Err(StartError::Path("is too long"));
        }
        let below = |name: &str| [root, b"/", name.as_bytes()].concat();
        let pgdata_path = CString::new(below(PGDATA)).map_err(|_| StartError::Path("holds a zero byte"))?;
        let links_path = CString::new(below("pgdata/pg_tblspc")).map_err(|_| StartError::Path("holds a zero byte"))?;
        let control_path = CString::new(below(CONTROL)).map_err(|_| StartError::Path("holds a zero byte"))?;
        let too_long = || StartError::Path("is too long");
        let as_given = Buffer::normalised(pgdata_path.as_bytes()).ok_or_else(too_long)?;
        let resolved = resolved(&pgdata_path).unwrap_or(as_given);
        Ok(Shim {
            control: map_control(&control_path).map_err(StartError::Control)?,
            pgdata: [as_given, resolved],
            pgdata_path,
            links_path,
            meta_root: [&below(META)[..], b"/"].concat(),
            socket: below(SOCKET),
            withheld: Withheld::find(root),
        })
    }

    /// The shared memory.
    #[inline]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Path of the agent's socket.
    pub fn socket(&self) -> &[u8] {
        &self.socket
    }

    /// Where PostgreSQL has its links to tablespaces.
    pub fn links_path(&self) -> &CStr {
        &self.links_path
    }

    /// The files that only this library finds, if the compute has any.
    pub fn withheld(&self) -> Option<&Withheld> {
        self.withheld.as_ref()
    }

    /// The part of an absolute, normalised path (without the leading slash) below the data directory.
    pub fn below_pgdata<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let below = |pgdata: &Buffer| match path.strip_prefix(pgdata.bytes())? {
            [] => Some(&path[path.len()..]),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        };
        self.pgdata.iter().find_map(below)
    }

    /// Path of the meta file of a file of PostgreSQL's.
    pub fn meta_path(&self, relative: &[u8]) -> Option<MetaPath> {
        self.path_beside(relative, b"")
    }

    /// The same with a suffix.
    pub fn path_beside(&self, relative: &[u8], suffix: &[u8]) -> Option<MetaPath> {
        let mut bytes = [0; META_PATH_BYTES_MAX];
        let parts = self.meta_root.iter().chain(relative).chain(suffix).chain(&[0]);
        if self.meta_root.len() + relative.len() + suffix.len() + 1 > bytes.len() {
            return None;
        }
        for (slot, byte) in bytes.iter_mut().zip(parts) {
            *slot = *byte;
        }
        Some(MetaPath(bytes))
    }
}

/// A path as libc wants it.
#[derive(Debug)]
pub struct MetaPath([u8; META_PATH_BYTES_MAX]);

impl MetaPath {
    /// The address of the first byte.
    pub fn as_ptr(&self) -> *const libc::c_char {
        self.0.as_ptr().cast()
    }
}

fn resolved(path: &CStr) -> Option<Buffer> {
    // SAFETY: a C string in, an allocated C string (or null) out, which is copied and freed.
    unsafe {
        let found = libc::realpath(path.as_ptr(), std::ptr::null_mut());
        if found.is_null() {
            return None;
        }
        let copy = Buffer::normalised(CStr::from_ptr(found).to_bytes());
        libc::free(found.cast());
        copy
    }
}

fn map_control(path: &CStr) -> Result<ControlMap, CacheError> {
    // SAFETY: a C string; the descriptor is ours and closed once.
    unsafe {
        let fd = real::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC, 0);
        if fd < 0 {
            return Err(CacheError::last_os("cannot open it"));
        }
        let map = ControlMap::from_fd(fd);
        real::close(fd);
        map
    }
}

/// Whether relative paths are below the data directory.
pub fn in_pgdata() -> bool {
    IN_PGDATA.load(Ordering::Relaxed)
}

/// To be called whenever the working directory may have changed.
pub fn look_at_working_directory() {
    let Some(shim) = current() else { return };
    let here = identity(c".");
    IN_PGDATA.store(here.is_ok() && here == identity(&shim.pgdata_path), Ordering::Relaxed);
}

/// Device and inode.
pub fn identity(path: &CStr) -> Result<(u64, u64), Errno> {
    // SAFETY: an all-zero `stat` is a valid value for the kernel to overwrite.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a C string, and `status` is valid for writing.
    match unsafe { real::stat(path.as_ptr(), &raw mut status) } {
        0 => Ok((status.st_dev, status.st_ino)),
        _ => Err(Errno::last()),
    }
}

/// Writes a line to the standard error, where PostgreSQL's log collects it.
pub fn say(message: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 512], length: 0 };
    let _ = writeln!(line, "quire-shim[{}]: {message}", process::pid());
    let text = line.bytes.get(..line.length).unwrap_or_default();
    // SAFETY: the bytes are valid for reading.
    unsafe { real::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

/// A line without allocation; what does not fit is cut off.
struct Line {
    bytes: [u8; 512],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let count = room.len().min(text.len());
        for (slot, byte) in room.iter_mut().zip(text.bytes()) {
            *slot = byte;
        }
        self.length += count;
        Ok(())
    }
}
