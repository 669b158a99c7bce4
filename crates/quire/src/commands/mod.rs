//! The commands, one file each.

pub mod compute;
pub mod down;
pub mod page;
pub mod psql;
pub mod pushdown;
pub mod role;
pub mod status;
pub mod up;
pub mod url;
pub mod verify;
