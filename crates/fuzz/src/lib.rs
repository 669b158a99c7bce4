//! Every decoder that reads the network or a file, given untrusted input.
//!
//! A [`Target`] is a function of bytes that must return, whatever the bytes are: no panic, no overflow, no access out
//! of bounds, memory and time in proportion to the input. Where something more must hold it is asserted: what was
//! decoded encodes to what decodes to the same; a stream cut into pieces gives what the whole gives.
//!
//! The same functions run twice. `make fuzz` runs each under libFuzzer (`fuzz/`), which looks for input that takes new
//! ways through the code. `make test` runs each over its seeds and over random changes of them, always the same ones
//! (`tests/short.rs`).
//!
//! # How input gets past the checks
//! A fuzzer does not guess a CRC. So input is not taken as it is: lengths, checksums, magic numbers and page addresses
//! are put right first (the module of each target says which), and what is fuzzed is all that they protect.
//!
//! # Seeds
//! [`corpus`] holds the seeds of each target. They come from a real server's WAL (`tests/corpus`, `make corpus`):
//! of each kind of record the shortest ones, and the pages they were applied to.

#![forbid(unsafe_code)]

pub mod corpus;
pub mod files;
pub mod frames;
pub mod ingest;
pub mod input;
pub mod mutation;
pub mod record;
pub mod record_bytes;
pub mod redo;
pub mod wal_stream;

/// Something to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of the program in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Takes any bytes and returns.
    pub run: fn(&[u8]),
    /// Its seeds, packed.
    packed_seeds: &'static [u8],
}

/// All targets.
pub const TARGETS: [Target; 6] = [
    Target { name: "wal_stream", run: wal_stream::run, packed_seeds: include_bytes!("../corpus/wal_stream.zst") },
    Target { name: "record", run: record::run, packed_seeds: include_bytes!("../corpus/record.zst") },
    Target { name: "redo", run: redo::run, packed_seeds: include_bytes!("../corpus/redo.zst") },
    Target { name: "ingest", run: ingest::run, packed_seeds: include_bytes!("../corpus/ingest.zst") },
    Target { name: "frames", run: frames::run, packed_seeds: include_bytes!("../corpus/frames.zst") },
    Target { name: "files", run: files::run, packed_seeds: include_bytes!("../corpus/files.zst") },
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Target> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// The seeds.
    ///
    /// # Errors
    /// If the packed seeds are damaged.
    pub fn seeds(&self) -> std::io::Result<Vec<Vec<u8>>> {
        corpus::unpack(self.packed_seeds)
    }
}
