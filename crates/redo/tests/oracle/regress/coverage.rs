//! What a replay has shown of each type of record.

use super::kind::why_absent;
use quire_wal::Record;
use quire_wal::rmgr::{self, kind::Kind};
use std::collections::BTreeMap;
use std::fmt;

/// Counts by type of record.
#[derive(Default)]
pub struct Coverage {
    kinds: BTreeMap<Kind, Counts>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    records: usize,
    pages: usize,
    restored: usize,
    compared: usize,
    differ: usize,
    not_replayed: usize,
}

/// What became of a page that a record references.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Redo restored the image in the record.
    Restored,
    /// Redo's page equals PostgreSQL's.
    Equal,
    /// Redo's page is another than PostgreSQL's, or redo refused.
    Differs,
    /// Redo knows no such record.
    NotReplayed,
    /// The record carries no image that says what the page must be.
    NotCompared,
}

impl Coverage {
    pub fn record(&mut self, record: &Record) {
        self.kinds.entry(rmgr::kind::of(record.rmgr, record.info)).or_default().records += 1;
    }

    pub fn page(&mut self, record: &Record, outcome: Outcome) {
        let counts = self.kinds.entry(rmgr::kind::of(record.rmgr, record.info)).or_default();
        counts.pages += 1;
        match outcome {
            Outcome::Restored => counts.restored += 1,
            Outcome::Equal => counts.compared += 1,
            Outcome::Differs => {
                counts.compared += 1;
                counts.differ += 1;
            }
            Outcome::NotReplayed => counts.not_replayed += 1,
            Outcome::NotCompared => {}
        }
    }

    fn total(&self) -> Counts {
        self.kinds.values().fold(Counts::default(), |sum, counts| Counts {
            records: sum.records + counts.records,
            pages: sum.pages + counts.pages,
            restored: sum.restored + counts.restored,
            compared: sum.compared + counts.compared,
            differ: sum.differ + counts.differ,
            not_replayed: sum.not_replayed + counts.not_replayed,
        })
    }

    /// Pages that were compared with PostgreSQL's.
    pub fn compared(&self) -> usize {
        self.total().compared
    }

    /// Pages that redo left alone because it knows no such record.
    pub fn not_replayed(&self) -> usize {
        self.total().not_replayed
    }

    /// Types of records that should have occurred.
    pub fn missing(&self) -> Vec<String> {
        let missing = self.absent().filter(|kind| why_absent(*kind).is_none());
        missing.map(|(manager, info)| format!("{} {}", manager_name(manager), kind_name(manager, info))).collect()
    }

    fn absent(&self) -> impl Iterator<Item = Kind> {
        rmgr::kind::ALL.iter().map(|(manager, info, _)| (*manager, *info)).filter(|kind| !self.kinds.contains_key(kind))
    }

    fn write_absent(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTypes of records that did not occur:\n")?;
        for (manager, info) in self.absent() {
            let why = why_absent((manager, info)).unwrap_or("not reached");
            writeln!(f, "- {} {}: {why}.", manager_name(manager), kind_name(manager, info))?;
        }
        Ok(())
    }
}

/// The table, in the order of the managers, and the types that are missing from it.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let (records, compared, differ) = (total.records, total.compared, total.differ);
        writeln!(f, "{records} records were replayed, {compared} pages compared, {differ} of them differed.\n")?;
        f.write_str(HEADING)?;
        for ((manager, info), counts) in &self.kinds {
            writeln!(f, "| {} | {} {counts}", manager_name(*manager), kind_name(*manager, *info))?;
        }
        writeln!(f, "| all | {total}")?;
        self.write_absent(f)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { records, pages, restored, compared, differ, not_replayed } = self;
        write!(f, "| {records} | {pages} | {restored} | {compared} | {differ} | {not_replayed} |")
    }
}

fn manager_name(manager: u8) -> &'static str {
    rmgr::name(manager).unwrap_or("extension")
}

fn kind_name(manager: u8, info: u8) -> String {
    rmgr::kind::name(manager, info).map_or_else(|| format!("{info:#04x}"), str::to_owned)
}

const HEADING: &str = "## Records

Pages counts references to pages. Restored: redo put the record's image in place, as it must when the record says so.
Compared: redo changed the page, which then was compared with PostgreSQL's. Pages that are neither belong to a
visibility map, or to a record without an image: a hint's, or one of a session that has only one manager's records
checked. Not replayed: redo knows no such record, and the page was taken from PostgreSQL.

| Manager | Record | Records | Pages | Restored | Compared | Differ | Not replayed |
|---|---|---:|---:|---:|---:|---:|---:|
";
