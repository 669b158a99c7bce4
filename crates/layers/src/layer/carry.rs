//! How a layer keeps the account of a page.

use super::sections::SectionRecord;
use crate::accounts::{Account, Carry};
use quire_types::key::KEY_BYTES;
use quire_types::{CodecError, Key, Lsn, Reader, Writer};

impl SectionRecord for Carry {
    fn write(&self, out: &mut Writer) {
        let Account { deltas, bytes, since, last } = self.account;
        out.bytes(&self.key.encode()).u32(deltas).u64(bytes).u64(since.0).u64(last.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Carry, CodecError> {
        let key = Key::decode(input.bytes("carry key", KEY_BYTES)?)?;
        let (deltas, bytes) = (input.u32("deltas")?, input.u64("delta bytes")?);
        let (since, last) = (Lsn(input.u64("since")?), Lsn(input.u64("last")?));
        Ok(Carry { key, account: Account { deltas, bytes, since, last } })
    }
}
