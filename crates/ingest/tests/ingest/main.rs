//! Ingest from outside: single records made by hand, and whole logs of a stock PostgreSQL.

mod bench;
mod comparison;
mod crafted;
mod oracle;
mod server;
mod store;
mod workload;
