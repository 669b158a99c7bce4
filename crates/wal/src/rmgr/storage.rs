//! `info` bits of `Storage` (`storage_xlog.h`), `Database` (`dbcommands_xlog.h`), `Tablespace` (`tablespace.h`) and
//! `RelMap` (`relmapper.h`).

/// A relation fork was created.
pub const XLOG_SMGR_CREATE: u8 = 0x10;
/// A relation was truncated.
pub const XLOG_SMGR_TRUNCATE: u8 = 0x20;
/// The main fork is truncated.
pub const SMGR_TRUNCATE_HEAP: u32 = 0x0001;
/// The visibility map is truncated.
pub const SMGR_TRUNCATE_VM: u32 = 0x0002;
/// The free space map is truncated.
pub const SMGR_TRUNCATE_FSM: u32 = 0x0004;
/// A database was made by copying another's files.
pub const XLOG_DBASE_CREATE_FILE_COPY: u8 = 0x00;
/// A database's directory was made; its blocks are logged after it.
pub const XLOG_DBASE_CREATE_WAL_LOG: u8 = 0x10;
/// A database was dropped.
pub const XLOG_DBASE_DROP: u8 = 0x20;
/// A tablespace was created.
pub const XLOG_TBLSPC_CREATE: u8 = 0x00;
/// A tablespace was dropped.
pub const XLOG_TBLSPC_DROP: u8 = 0x10;
/// A `pg_filenode.map` was rewritten.
pub const XLOG_RELMAP_UPDATE: u8 = 0x00;
