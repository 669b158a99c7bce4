//! Multixacts. Source: `multixact.h`, `multixact.c` (`multixact_redo`).

use super::{items, page_number, unknown};
use crate::rmgr::*;
use quire_types::{CodecError, Reader};

/// Bytes of a `MultiXactMember`.
const MEMBER_BYTES: usize = 8;

/// One member of a multixact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The transaction.
    pub xid: u32,
    /// What it does to the row (`MultiXactStatus`).
    pub status: u8,
}

/// What a record of the multixact manager says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultixactEffect {
    /// A page of offsets is set to zeroes.
    ZeroOffsetsPage(u32),
    /// A page of members is set to zeroes.
    ZeroMembersPage(u32),
    /// A new multixact.
    Create {
        /// Its id.
        multi: u32,
        /// Where its members begin.
        offset: u32,
        /// Its members, in order.
        members: Vec<Member>,
    },
    /// Old multixacts are forgotten.
    Truncate {
        /// The database that holds the oldest one kept.
        oldest_multi_db: u32,
        /// The oldest multixact kept.
        end_multi: u32,
        /// Where the members to remove begin.
        start_member: u32,
        /// Where the members kept begin.
        end_member: u32,
    },
}

/// Reads a record of the multixact manager.
pub fn parse(info: u8, data: &[u8]) -> Result<MultixactEffect, CodecError> {
    let mut input = Reader::new(data);
    match info & XLR_RMGR_INFO_MASK {
        XLOG_MULTIXACT_ZERO_OFF_PAGE => Ok(MultixactEffect::ZeroOffsetsPage(page_number(&mut input)?)),
        XLOG_MULTIXACT_ZERO_MEM_PAGE => Ok(MultixactEffect::ZeroMembersPage(page_number(&mut input)?)),
        XLOG_MULTIXACT_CREATE_ID => create(&mut input),
        XLOG_MULTIXACT_TRUNCATE_ID => truncate(&mut input),
        other => unknown("multixact record type", other),
    }
}

fn create(input: &mut Reader<'_>) -> Result<MultixactEffect, CodecError> {
    let (multi, offset) = (input.u32("multixact")?, input.u32("offset")?);
    let count = input.u32("nmembers")?;
    let members = items(input, "members", count, MEMBER_BYTES)?.map(member).collect::<Result<_, _>>()?;
    Ok(MultixactEffect::Create { multi, offset, members })
}

fn member(raw: &[u8]) -> Result<Member, CodecError> {
    let mut input = Reader::new(raw);
    let (xid, status) = (input.u32("member")?, input.u32("member status")?);
    let invalid = CodecError::Invalid { field: "member status", value: status.into() };
    Ok(Member { xid, status: u8::try_from(status).map_err(|_| invalid)? })
}

fn truncate(input: &mut Reader<'_>) -> Result<MultixactEffect, CodecError> {
    let oldest_multi_db = input.u32("oldest multixact's database")?;
    input.u32("first multixact to remove")?;
    Ok(MultixactEffect::Truncate {
        oldest_multi_db,
        end_multi: input.u32("oldest multixact")?,
        start_member: input.u32("first member to remove")?,
        end_member: input.u32("oldest member")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quire_types::Writer;

    #[test]
    fn a_multixact_comes_with_its_members() {
        let mut data = Writer::new();
        data.u32(8).u32(21).u32(2).u32(700).u32(1).u32(701).u32(5);
        let members = vec![Member { xid: 700, status: 1 }, Member { xid: 701, status: 5 }];
        assert_eq!(
            parse(XLOG_MULTIXACT_CREATE_ID, data.as_slice()),
            Ok(MultixactEffect::Create { multi: 8, offset: 21, members })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(info: u8, data in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(info, &data);
        }
    }
}
