//! The record that says which server wrote what follows it in the log.
//!
//! It is a message for logical decoding (`logical_message.c`), which PostgreSQL's redo passes over, so any server and
//! tool reads a log that has it. The message belongs to no transaction and to no database: logical decoding gives a
//! slot the messages of its own database alone, so that none gets this one; and no statement can write one like it,
//! since a session has a database.

use super::unknown;
use crate::rmgr::{XLOG_LOGICAL_MESSAGE, XLR_RMGR_INFO_MASK};
use crate::server_version::ServerVersion;
use quire_types::{CodecError, Reader, Writer};

/// What such messages begin with.
pub const PREFIX: &str = "quire.server_version";

/// `InvalidOid`.
const NO_DATABASE: u32 = 0;

/// The record's data, an `xl_logical_message`: the message is `server_version_num` in decimal digits.
pub fn to_record_data(version: ServerVersion) -> Vec<u8> {
    let number = version.number().to_string();
    let mut out = Writer::new();
    out.u32(NO_DATABASE).u8(0).bytes(&[0; 3]);
    // The prefix is counted with the zero that ends it.
    out.u64(PREFIX.len() as u64 + 1).u64(number.len() as u64);
    out.bytes(PREFIX.as_bytes()).u8(0).bytes(number.as_bytes());
    out.into_vec()
}

/// The version that a logical message tells; none if it is another program's message.
pub fn parse(info: u8, main_data: &[u8]) -> Result<Option<ServerVersion>, CodecError> {
    if info & XLR_RMGR_INFO_MASK != XLOG_LOGICAL_MESSAGE {
        return unknown("logical message type", info);
    }
    let mut input = Reader::new(main_data);
    let database = input.u32("database")?;
    let _transactional = input.bytes("transactional", 4)?;
    let (prefix_bytes, message_bytes) = (input.u64("prefix size")?, input.u64("message size")?);
    if database != NO_DATABASE || prefix_bytes != PREFIX.len() as u64 + 1 {
        return Ok(None);
    }
    let prefix = input.bytes("prefix", PREFIX.len() + 1)?;
    if prefix.strip_suffix(&[0]) != Some(PREFIX.as_bytes()) {
        return Ok(None);
    }
    let message = usize::try_from(message_bytes).unwrap_or(usize::MAX);
    let number = std::str::from_utf8(input.bytes("message", message)?).ok().and_then(|text| text.parse().ok());
    let version = number.and_then(ServerVersion::from_number);
    version.map(Some).ok_or(CodecError::Invalid { field: "server version", value: number.unwrap_or(0).into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: ServerVersion = ServerVersion::new(15, 20);

    #[test]
    fn the_message_is_read_back_and_says_what_it_says_in_digits() {
        let data = to_record_data(VERSION);
        assert_eq!(parse(XLOG_LOGICAL_MESSAGE, &data), Ok(Some(VERSION)));
        assert!(data.ends_with(b"quire.server_version\x00150020"));
        assert_eq!(data.len(), 24 + 21 + 6);
    }

    #[test]
    fn messages_of_sessions_are_passed_over_whatever_they_say() {
        let mut of_a_session = to_record_data(VERSION);
        of_a_session[..4].copy_from_slice(&5u32.to_le_bytes());
        assert_eq!(parse(XLOG_LOGICAL_MESSAGE, &of_a_session), Ok(None));
        let mut another_topic = to_record_data(VERSION);
        another_topic[24] = b'Q';
        assert_eq!(parse(XLOG_LOGICAL_MESSAGE, &another_topic), Ok(None));
    }

    #[test]
    fn a_damaged_message_is_an_error() {
        let data = to_record_data(VERSION);
        assert!(parse(XLOG_LOGICAL_MESSAGE, &data[..data.len() - 1]).is_err());
        assert!(parse(0x10, &data).is_err());
        let mut no_number = data.clone();
        no_number[45] = b'x';
        assert!(parse(XLOG_LOGICAL_MESSAGE, &no_number).is_err());
        let mut endless = data;
        endless[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(parse(XLOG_LOGICAL_MESSAGE, &endless).is_err());
    }
}
