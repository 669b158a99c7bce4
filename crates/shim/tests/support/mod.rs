//! A real PostgreSQL on the shim, with an agent that has the whole cluster at hand.

pub mod agent;
pub mod cluster;
pub mod postgres;
