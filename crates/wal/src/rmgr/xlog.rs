//! `info` bits of the `XLOG` resource manager (`pg_control.h`): checkpoints, images, settings.

/// A checkpoint taken while shutting down: nothing follows that it does not cover.
pub const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
/// A checkpoint taken while running.
pub const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
/// Nothing.
pub const XLOG_NOOP: u8 = 0x20;
/// Object ids up to the one logged may have been handed out.
pub const XLOG_NEXTOID: u8 = 0x30;
/// The rest of the segment is unused.
pub const XLOG_SWITCH: u8 = 0x40;
/// A base backup that started at the logged LSN ended here.
pub const XLOG_BACKUP_END: u8 = 0x50;
/// `xl_parameter_change`: settings that standbys must match.
pub const XLOG_PARAMETER_CHANGE: u8 = 0x60;
/// A named restore point.
pub const XLOG_RESTORE_POINT: u8 = 0x70;
/// `full_page_writes` was switched; one byte says to what.
pub const XLOG_FPW_CHANGE: u8 = 0x80;
/// Recovery ended here without a checkpoint.
pub const XLOG_END_OF_RECOVERY: u8 = 0x90;
/// Page images logged because of a hint bit; may carry none.
pub const XLOG_FPI_FOR_HINT: u8 = 0xA0;
/// Page images.
pub const XLOG_FPI: u8 = 0xB0;
/// What came before on the preceding pages is an aborted record.
pub const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
