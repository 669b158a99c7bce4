//! Files that others write while they are read: the cache's, and WAL.

use super::put;
use nix::sys::memfd::{MFdFlags, memfd_create};
use quire_cache::BUILD_ID;
use quire_cache::control::ControlMap;
use quire_cache::meta::Meta;
use quire_cache::protocol::Blocks;
use quire_types::{Lsn, Writer};
use quire_wal::wal_page::WalPageHeader;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

/// Bytes of a WAL segment.
const SEGMENT_BYTES: u64 = 1 << 20;

/// A file in memory with these contents.
fn in_memory(contents: &[u8]) -> File {
    let descriptor = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("the kernel has files in memory");
    let mut file = File::from(descriptor);
    file.write_all(contents).expect("memory can be written");
    file
}

/// Maps a meta file and asks for every block that it can have.
pub(super) fn read_meta(contents: &[u8], is_repaired: bool) {
    let mut contents = contents.to_vec();
    if is_repaired {
        put(&mut contents, 0, b"QuireMet");
        put(&mut contents, 8, &BUILD_ID.to_ne_bytes());
    }
    let file = in_memory(&contents);
    if let Ok(meta) = Meta::from_fd(file.as_raw_fd()) {
        let _facts = (meta.file(), meta.inode(), meta.request_lsn(), meta.remote_nblocks());
        let capacity = meta.capacity();
        let _states: Vec<_> = (0..capacity.saturating_add(2)).map(|block| meta.state(block)).collect();
    }
}

/// Maps a control file and looks at what it says.
pub(super) fn read_control(contents: &[u8], is_repaired: bool) {
    let mut contents = contents.to_vec();
    if is_repaired {
        put(&mut contents, 0, b"QuireCtl");
        put(&mut contents, 8, &BUILD_ID.to_ne_bytes());
    }
    let file = in_memory(&contents);
    if let Ok(control) = ControlMap::from_fd(file.as_raw_fd()) {
        let _facts = (control.state(), control.timeline(), control.start_lsn(), control.commit_lsn());
        let _more = (control.wal_written(), control.counter_values(), control.agent_pid());
    }
}

/// Reads the header of the page that the header says it is.
pub(super) fn read_wal_page_header(contents: &[u8]) {
    let address = contents.get(8..16).and_then(|raw| raw.try_into().ok()).map_or(0, u64::from_le_bytes);
    if let Ok(header) = WalPageHeader::read(contents, Lsn(address), SEGMENT_BYTES, None) {
        let mut writer = Writer::new();
        header.write(&mut writer);
        let again = WalPageHeader::read(writer.as_slice(), Lsn(address), SEGMENT_BYTES, None);
        assert_eq!(again, Ok(header));
    }
}
