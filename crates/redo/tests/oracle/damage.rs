//! Real records and pages with bytes turned over: redo may refuse them or make nonsense of them, but it must return.

use quire_redo::{Delta, apply};
use quire_types::{Key, Lsn, PAGE_SIZE};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The first references to pages by each kind of record are tried out, this many of them, so that rare kinds are too.
const FIRST: u64 = 50;
/// How often each of them is.
const ROUNDS: u64 = 4;
/// Of those that follow, one in this many is tried out.
const ONE_IN: u64 = 8;

/// A source of damage; the same records meet the same damage.
pub struct Damage {
    state: u64,
    tried: u64,
    refused: u64,
    /// References met so far, by manager and kind of record.
    met: BTreeMap<(u8, u8), u64>,
    /// Where redo did not return, by manager and kind of record, and how often.
    panics: BTreeMap<(u8, u8), u64>,
}

impl Damage {
    pub fn new() -> Damage {
        Damage { state: 0x9E37_79B9_7F4A_7C15, tried: 0, refused: 0, met: BTreeMap::new(), panics: BTreeMap::new() }
    }

    /// Applies a damaged copy of the record to a damaged copy of the page, as often as is due.
    pub fn try_out(&mut self, page: Option<&[u8; PAGE_SIZE]>, key: Key, lsn: Lsn, record: &[u8]) {
        let kind = (record[17], record[16] & 0xF0);
        for _ in 0..self.rounds(kind) {
            self.try_once(page, key, lsn, record, kind);
        }
    }

    fn rounds(&mut self, kind: (u8, u8)) -> u64 {
        let met = self.met.entry(kind).or_default();
        *met += 1;
        if *met <= FIRST { ROUNDS } else { u64::from(self.random(ONE_IN) == 0) }
    }

    fn try_once(&mut self, page: Option<&[u8; PAGE_SIZE]>, key: Key, lsn: Lsn, record: &[u8], kind: (u8, u8)) {
        let mut page = page.map_or([0; PAGE_SIZE], |page| *page);
        let record = self.damage_record(record);
        if self.random(2) == 0 {
            self.damage_page(&mut page);
        }
        self.tried += 1;
        let delta = Delta::Record(record.into(), Lsn(8));
        match catch_unwind(AssertUnwindSafe(|| apply(&mut page, key, lsn, &delta))) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.refused += 1,
            Err(_) => *self.panics.entry(kind).or_default() += 1,
        }
    }

    /// Where redo did not return.
    pub fn panics(&self) -> &BTreeMap<(u8, u8), u64> {
        &self.panics
    }

    /// Turns over a few bytes, most often near the ends, where the headers and the main data are, or cuts the end off.
    fn damage_record(&mut self, record: &[u8]) -> Vec<u8> {
        let mut damaged = record.to_vec();
        if self.random(8) == 0 {
            damaged.truncate(24 + self.random(record.len() as u64 - 23) as usize);
        }
        for _ in 0..self.random(3) {
            let last = damaged.len() as u64 - 1;
            let reach = self.random(120).min(last);
            let at = [reach, last - reach, self.random(last + 1)][self.random(3) as usize];
            damaged[at as usize] = self.byte();
        }
        let length = damaged.len() as u32;
        damaged[..4].copy_from_slice(&length.to_le_bytes());
        damaged
    }

    /// Turns over a few bytes of the header, the line pointers, the tuples or the special space.
    fn damage_page(&mut self, page: &mut [u8; PAGE_SIZE]) {
        for _ in 0..=self.random(3) {
            let (start, length) = [(8, 16), (24, 400), (4096, 4096), (8176, 16)][self.random(4) as usize];
            page[start + self.random(length) as usize] = self.byte();
        }
    }

    /// A byte that is a bound as often as not.
    fn byte(&mut self) -> u8 {
        match self.random(4) {
            0 => 0,
            1 => 0xFF,
            _ => self.random(256) as u8,
        }
    }

    /// Below `bound` (xorshift).
    fn random(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % bound
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tried, refused, panics) = (self.tried, self.refused, &self.panics);
        write!(f, "damaged records: {tried} applied, {refused} of them refused, panics: {panics:02x?}")
    }
}
