//! What a thread is working on, so that a panic can say so.

use quire_types::{BranchKey, Key, Lsn, ShardId};
use serde::{Deserialize, Serialize};
use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<Option<Work>> = const { Cell::new(None) };
}

/// Work on which a panic can be blamed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// A page is rebuilt.
    Page {
        /// Its branch.
        branch: BranchKey,
        /// Its shard.
        shard: ShardId,
        /// The page.
        #[serde(with = "key_text")]
        key: Key,
        /// As of when.
        lsn: Lsn,
        /// End of the record that is redone.
        record: Lsn,
    },
    /// A record is taken in.
    Record {
        /// Its branch.
        branch: BranchKey,
        /// The shard that takes it in.
        shard: ShardId,
        /// Where the record begins.
        lsn: Lsn,
    },
}

/// Ends the work when dropped.
#[derive(Debug)]
pub struct Working(Option<Work>);

/// Begins work; what the thread was working on before is what it works on again afterwards.
pub fn begin(work: Work) -> Working {
    Working(CURRENT.replace(Some(work)))
}

/// Notes which record of the page is redone now.
pub fn at_record(at: Lsn) {
    if let Some(Work::Page { branch, shard, key, lsn, .. }) = CURRENT.get() {
        CURRENT.set(Some(Work::Page { branch, shard, key, lsn, record: at }));
    }
}

/// What this thread is working on.
pub fn current() -> Option<Work> {
    // A thread that is ending has nothing any more.
    CURRENT.try_with(Cell::get).ok().flatten()
}

impl Drop for Working {
    fn drop(&mut self) {
        // A panic that unwinds, as in tests, is still of this work.
        if !std::thread::panicking() {
            CURRENT.set(self.0);
        }
    }
}

/// A key as the hexadecimal of its encoding.
mod key_text {
    use quire_types::Key;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = key.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
        let bytes: Result<Vec<u8>, _> = digits.map(|pair| u8::from_str_radix(pair, 16)).collect();
        Key::decode(&bytes.map_err(D::Error::custom)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Slru;

    fn page(block: u32) -> Work {
        let (branch, shard) = (BranchKey::default(), ShardId::UNSHARDED);
        let key = Key::SlruBlock { slru: Slru::Clog, page: block };
        Work::Page { branch, shard, key, lsn: Lsn(90), record: Lsn::INVALID }
    }

    #[test]
    fn work_within_work_is_blamed_until_it_ends() {
        assert_eq!(current(), None);
        let outer = begin(page(1));
        {
            let _inner = begin(page(2));
            at_record(Lsn(70));
            assert!(matches!(current(), Some(Work::Page { record: Lsn(70), .. })));
        }
        assert_eq!(current(), Some(page(1)));
        drop(outer);
        assert_eq!(current(), None);
        at_record(Lsn(70));
        assert_eq!(current(), None);
    }

    #[test]
    fn work_reads_back_from_its_text() {
        for work in [page(7), Work::Record { branch: BranchKey::default(), shard: ShardId::UNSHARDED, lsn: Lsn(5) }] {
            let text = serde_json::to_string(&work).expect("text");
            assert_eq!(serde_json::from_str::<Work>(&text).expect("read back"), work, "{text}");
        }
        assert!(
            serde_json::from_str::<Work>(&serde_json::to_string(&page(7)).expect("text").replace("00", "zz")).is_err()
        );
    }
}
