//! What the shim adds to a `pread` of a page that is in the cache: the hook beside libc's own function, in turns, on
//! the same file in the kernel's page cache, in processor time. `cargo bench -p quire-shim`; `--json` prints the
//! figures for programs.
//!
//! FIGURES

use quire_cache::protocol::{claim, publish};
use quire_cache::{AgentState, ComputeDir, ControlMap, ControlSettings, FileId, Meta, MetaSpec};
use quire_shim::hooks::data::pread as hooked;
use quire_shim::hooks::open::open as hooked_open;
use quire_shim::real::pread as real;
use quire_shim::shim::Shim;
use quire_types::{Fork, Lsn, RelTag};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

const BLOCKS: u32 = 1024;
const PAGE: usize = 8192;
const READS: u32 = 20_000;
const ROUNDS: usize = 25;

type Pread = unsafe extern "C" fn(i32, *mut libc::c_void, usize, i64) -> isize;

/// Processor time of this thread: what other programs on the machine do is not in it.
fn processor_ns() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing, and every Linux has the clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Nanoseconds for each of many reads.
fn time(fd: i32, pread: impl Fn(i32, *mut libc::c_void, usize, i64) -> isize) -> f64 {
    let mut page = [0_u8; PAGE];
    let begun = processor_ns();
    for number in 0..READS {
        let block = number.wrapping_mul(2_654_435_761) % BLOCKS;
        let offset = i64::from(block) * PAGE as i64;
        assert_eq!(pread(fd, page.as_mut_ptr().cast(), PAGE, offset), PAGE as isize);
    }
    (processor_ns() - begun) / f64::from(READS)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A compute's directory with one shared relation in it, all of which is present.
fn lay_out(dir: &ComputeDir, relation: u32, bounded: bool) -> CString {
    let file = FileId::Relation {
        rel: RelTag { tablespace: RelTag::GLOBAL_TABLESPACE, database: 0, relation, fork: Fork::Main },
        segment: 0,
    };
    let path = dir.data_file(format!("global/{relation}"));
    fs::write(&path, vec![7; BLOCKS as usize * PAGE]).expect("written");
    let inode = File::open(&path).and_then(|file| file.metadata()).expect("examined").ino();
    let spec = MetaSpec { file, inode, remote_nblocks: BLOCKS, bounded, request_lsn: Lsn(1) };
    let meta_path = dir.meta_file(format!("global/{relation}"));
    spec.create(&meta_path).expect("made");
    let meta = Meta::open(&meta_path).expect("opened");
    (0..BLOCKS).for_each(|block| {
        assert!(claim(&meta, block));
        publish(&meta, block);
    });
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte")
}

fn measure(path: &CString, name: &str, json: bool) {
    // SAFETY: a C string.
    let fd = unsafe { hooked_open(path.as_ptr(), libc::O_RDWR, 0) };
    assert!(fd >= 0, "the file can be opened");
    // SAFETY: the buffer is as long as said, here and below.
    let with_shim = |fd, buffer, bytes, offset| unsafe { (hooked as Pread)(fd, buffer, bytes, offset) };
    // SAFETY: see above.
    let without = |fd, buffer, bytes, offset| unsafe { real(fd, buffer, bytes, offset) };
    let pairs: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (time(fd, without), time(fd, with_shim))).collect();
    let libc_ns = median(pairs.iter().map(|(libc_ns, _)| *libc_ns).collect());
    let added_ns = median(pairs.iter().map(|(libc_ns, shim_ns)| shim_ns - libc_ns).collect());
    if json {
        println!("{{\"cache\":\"{name}\",\"libc_ns\":{libc_ns:.1},\"added_ns\":{added_ns:.1}}}")
    } else {
        println!("{name:9} cache: pread {libc_ns:7.1} ns, the shim adds {added_ns:5.1} ns")
    }
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let folder = tempfile::tempdir().expect("a folder");
    let dir = ComputeDir::new(folder.path());
    for root in [dir.pgdata(), dir.meta()] {
        fs::create_dir_all(root.join("global")).expect("made");
    }
    let settings = ControlSettings {
        agent_pid: std::process::id(),
        segment_bytes: 16 << 20,
        timeline: 1,
        start_lsn: Lsn(1),
        bounded: true,
    };
    let control = ControlMap::create(&dir.control(), &settings).expect("made");
    control.set_state(AgentState::Running);
    let files = [("unbounded", lay_out(&dir, 1, false)), ("bounded", lay_out(&dir, 2, true))];
    Shim::start(folder.path().as_os_str().as_bytes()).expect("started");
    files.iter().for_each(|(name, path)| measure(path, name, json));
}
