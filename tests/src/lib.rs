//! What the end-to-end tests share: a Quire in a directory of its own, driven through the built binary as a user would.
//!
//! The binary is `target/release/quire`, or the one that `QUIRE_BIN` names. `QUIRE_LONG=1` makes the loops of the tests
//! long.

#![forbid(unsafe_code)]

pub mod amcheck;
pub mod bank;
pub mod copies;
pub mod damage;
pub mod disk;
pub mod dump;
pub mod ledger;
pub mod load;
pub mod logs;
pub mod minor;
pub mod ports;
pub mod processes;
pub mod quire;
pub mod regression;
pub mod stock;
pub mod torture;
pub mod wait;

pub use bank::Bank;
pub use copies::Copies;
pub use ledger::Ledger;
pub use quire::Quire;
pub use stock::Stock;
pub use wait::wait_for;

/// The short form of a number in ordinary runs, the long one under `QUIRE_LONG=1`.
pub fn short_or_long(short: u32, long: u32) -> u32 {
    match std::env::var_os("QUIRE_LONG") {
        Some(value) if value == "1" => long,
        _ => short,
    }
}
