//! What can be wrong with the bytes of a record.

/// What is wrong with the bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is shorter or longer than its header says.
    #[error("its length field does not match its size")]
    Length,
    /// A header or the data it announces reaches past the end.
    #[error("its parts do not add up to its size")]
    Truncated,
    /// Block references are not in ascending order.
    #[error("block reference {0} is out of order")]
    BlockOrder(u8),
    /// A reference leaves out the relation without one before it.
    #[error("block reference {0} has no relation")]
    NoRelation(u8),
    /// A fork number PostgreSQL does not have.
    #[error("unknown fork {0}")]
    Fork(u8),
    /// An identifier that is neither a block reference nor a known header.
    #[error("unknown header {0}")]
    Header(u8),
}
