//! The formats against PostgreSQL itself: what its server writes is read, and what is written here is read by it.

mod cluster;
mod shutdown_checkpoint;
mod waldump;
