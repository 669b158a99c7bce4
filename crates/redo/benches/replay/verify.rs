//! The pages that a replay arrived at, against the files of a server that recovered and was stopped.

use crate::files::Files;
use crate::native::Replay;
use anyhow::{Context, Result, ensure};
use quire_redo::mask::{PageKind, first_difference, page_kind};
use quire_types::{Key, PAGE_SIZE};
use quire_wal::page;
use std::path::Path;

/// Compares every page that was touched; how many those were.
///
/// A server logs a sequence's values ahead of those it gave out, and does not log its free space maps: these two are
/// left out.
pub fn compare(replay: &Replay, data: &Path) -> Result<usize> {
    let files = Files::load(data)?;
    let mut compared = 0;
    for (key, ours) in replay.store.iter() {
        let theirs = files.pages.get(key).with_context(|| format!("{key} is in no file"))?;
        if page_kind(theirs, key) != PageKind::Sequence {
            let difference = first_difference(ours, theirs, key);
            ensure!(difference.is_none(), "{key} differs from PostgreSQL's page at byte {difference:?}");
            compared += 1;
        }
    }
    for (key, theirs) in files.pages.iter().filter(|(key, _)| replay.store.get(*key).is_none()) {
        ensure!(!was_changed(key, theirs, replay), "PostgreSQL changed {key}, which we never touched");
    }
    Ok(compared)
}

/// Whether a page's LSN says that it was changed in the range that was replayed.
fn was_changed(key: Key, theirs: &[u8; PAGE_SIZE], replay: &Replay) -> bool {
    let has_lsn = matches!(key, Key::RelBlock { .. }) && page_kind(theirs, key) != PageKind::FreeSpaceMap;
    has_lsn && page::lsn(theirs) > replay.first_record
}
