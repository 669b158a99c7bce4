//! When a page is given an image: a pure function of its account, the branch's settings and the backlog.
//!
//! A page whose chain crosses a threshold is queued once. While it waits its chain grows; if it grows to
//! [`HARD_LIMIT`] times the threshold, or too many pages wait, ingest has to wait too. So no read of a newest version
//! ever replays more than `HARD_LIMIT` thresholds and one record.

use crate::accounts::Account;

/// Chains never grow beyond this many times the threshold.
pub const HARD_LIMIT: u32 = 4;

/// A branch's thresholds: a page that reaches either is given an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct ImageSettings {
    /// Deltas since the last image.
    pub max_deltas: u32,
    /// Bytes of deltas since the last image.
    pub max_bytes: u64,
}

impl Default for ImageSettings {
    fn default() -> ImageSettings {
        ImageSettings { max_deltas: 32, max_bytes: 64 << 10 }
    }
}

impl ImageSettings {
    /// Whether a chain has reached a threshold. A single delta is not too long for its bytes alone: an image would
    /// spare nothing but one redo.
    pub fn reached(&self, deltas: u32, bytes: u64) -> bool {
        deltas >= self.max_deltas.max(1) || (deltas > 1 && bytes >= self.max_bytes)
    }

    /// Whether a chain is longer than one that has just reached a threshold.
    pub fn exceeded(&self, deltas: u32, bytes: u64) -> bool {
        deltas > self.max_deltas.max(1) || (deltas > 1 && bytes > self.max_bytes)
    }

    /// Whether a chain has grown so long that ingest has to wait for its image.
    pub fn reached_hard_limit(&self, account: &Account) -> bool {
        account.deltas / HARD_LIMIT >= self.max_deltas.max(1)
            || (account.deltas > HARD_LIMIT && account.bytes / u64::from(HARD_LIMIT) >= self.max_bytes.max(1))
    }
}

/// What is to be done about a page that was just given a delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageChoice {
    /// Nothing: the chain is short, or the page is queued already.
    Wait,
    /// The page is to be queued.
    Materialise,
    /// The page is to be queued first of all, and ingest has to wait for the workers.
    Throttle,
}

/// Chooses. `queued` says whether the page waits for a worker already, `backlog` how many pages do, `backlog_max` how
/// many may.
pub fn choose(
    account: &Account,
    settings: &ImageSettings,
    queued: bool,
    backlog: usize,
    backlog_max: usize,
) -> ImageChoice {
    if settings.reached_hard_limit(account) {
        return ImageChoice::Throttle;
    }
    match settings.reached(account.deltas, account.bytes) && !queued {
        false => ImageChoice::Wait,
        true if backlog >= backlog_max => ImageChoice::Throttle,
        true => ImageChoice::Materialise,
    }
}

/// Why an image was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ImageReason {
    /// The chain crossed a threshold.
    Threshold,
    /// A read met a chain past the threshold.
    Read,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quire_types::Lsn;

    const SETTINGS: ImageSettings = ImageSettings { max_deltas: 10, max_bytes: 1000 };

    fn account(deltas: u32, bytes: u64) -> Account {
        Account { deltas, bytes, since: Lsn(1), last: Lsn(2) }
    }

    #[test]
    fn either_threshold_is_enough() {
        let chosen = |deltas, bytes| choose(&account(deltas, bytes), &SETTINGS, false, 0, 100);
        assert_eq!(chosen(9, 999), ImageChoice::Wait);
        assert_eq!(chosen(10, 100), ImageChoice::Materialise);
        assert_eq!(chosen(2, 1000), ImageChoice::Materialise);
        assert_eq!(chosen(1, 1_000_000), ImageChoice::Wait);
    }

    #[test]
    fn a_queued_page_is_not_queued_again_until_it_must_go_first() {
        let chosen = |deltas| choose(&account(deltas, 0), &SETTINGS, true, 1, 100);
        assert_eq!(chosen(39), ImageChoice::Wait);
        assert_eq!(chosen(40), ImageChoice::Throttle);
    }

    #[test]
    fn a_full_queue_throttles() {
        assert_eq!(choose(&account(10, 0), &SETTINGS, false, 100, 100), ImageChoice::Throttle);
        assert_eq!(choose(&account(9, 0), &SETTINGS, false, 100, 100), ImageChoice::Wait);
    }

    proptest! {
        #[test]
        fn no_chain_past_the_hard_limit_goes_on(deltas in 0u32..1000, bytes in 0u64..100_000, queued: bool, backlog in 0usize..200) {
            let choice = choose(&account(deltas, bytes), &SETTINGS, queued, backlog, 100);
            if deltas >= HARD_LIMIT * SETTINGS.max_deltas {
                prop_assert_eq!(choice, ImageChoice::Throttle);
            }
            if !queued && SETTINGS.reached(deltas, bytes) {
                prop_assert_ne!(choice, ImageChoice::Wait);
            }
        }
    }
}
