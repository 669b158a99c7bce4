//! What records that name no pages mean: transaction ends, files created and dropped, SLRU pages, counters.
//!
//! A commit, say, arrives as `main_data` of a record of the transaction manager; [`xact::parse`] turns it into the
//! transaction's end with its subtransactions and the relations to drop. What that does to stored pages is decided by
//! the pageserver's ingest; here are only the layouts. Sources: the `xl_*` structures of PostgreSQL 15 and the
//! `*_redo` functions that read them.
//!
//! Every parser takes untrusted bytes: counts are checked against what is left before anything is
//! allocated. Trailing bytes are ignored, because PostgreSQL logs some structures with the padding of C.

pub mod dbase;
pub mod full_page_writes;
pub mod heap;
pub mod multixact;
pub mod relmap;
pub mod replorigin;
pub mod server_version;
pub mod slru;
pub mod smgr;
pub mod standby;
pub mod tblspc;
pub mod xact;
pub mod xlog;

pub use full_page_writes::FullPageWrites;

use quire_types::{CodecError, Fork, Reader, RelTag};

/// A record type that the resource manager does not have.
fn unknown<T>(field: &'static str, info: u8) -> Result<T, CodecError> {
    Err(CodecError::Invalid { field, value: info.into() })
}

/// A `RelFileNode`, as the relation's main fork.
fn relation(input: &mut Reader<'_>) -> Result<RelTag, CodecError> {
    Ok(RelTag {
        tablespace: input.u32("tablespace")?,
        database: input.u32("database")?,
        relation: input.u32("relation")?,
        fork: Fork::Main,
    })
}

/// Takes `count` items of `item_bytes` each, refusing a count that the input cannot hold.
fn items<'a>(
    input: &mut Reader<'a>,
    field: &'static str,
    count: u32,
    item_bytes: usize,
) -> Result<std::slice::ChunksExact<'a, u8>, CodecError> {
    let total = (count as usize).checked_mul(item_bytes);
    let total = total.ok_or(CodecError::Invalid { field, value: count.into() })?;
    Ok(input.bytes(field, total)?.chunks_exact(item_bytes))
}

/// Takes `count` transaction ids or other `u32`s.
fn numbers(input: &mut Reader<'_>, field: &'static str, count: u32) -> Result<Vec<u32>, CodecError> {
    items(input, field, count, 4)?.map(|raw| Reader::new(raw).u32(field)).collect()
}

/// Takes `count` relations.
fn relations(input: &mut Reader<'_>, count: u32) -> Result<Vec<RelTag>, CodecError> {
    items(input, "relations", count, 12)?.map(|raw| relation(&mut Reader::new(raw))).collect()
}

/// A page number, which PostgreSQL logs as a C `int` that is never negative.
fn page_number(input: &mut Reader<'_>) -> Result<u32, CodecError> {
    let page = input.u32("page number")?;
    match i32::try_from(page) {
        Ok(_) => Ok(page),
        Err(_) => Err(CodecError::Invalid { field: "page number", value: page.into() }),
    }
}
