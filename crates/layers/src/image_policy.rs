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
    /// Nothing: the chain is short, or the page is queued already, or no image can be made of it at present.
    Wait,
    /// The page is to be queued.
    Queue,
    /// The page is to be queued, and ingest has to wait: the queue is full.
    QueueAndHold,
    /// The page is to be queued before all others, and ingest has to wait: its chain may not grow any more.
    QueueFirstAndHold,
}

/// What the backlog has to do with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BacklogView {
    /// Whether the page waits for a worker already.
    pub queued: bool,
    /// Whether no image can be made of the page: waiting for the workers would not help.
    pub held_back: bool,
    /// How many pages wait.
    pub pages: usize,
    /// How many may.
    pub pages_max: usize,
}

/// Chooses. The backlog is only asked about a chain that has reached a threshold, which few have.
pub fn choose(account: &Account, settings: &ImageSettings, backlog: impl FnOnce() -> BacklogView) -> ImageChoice {
    if !settings.reached(account.deltas, account.bytes) {
        return ImageChoice::Wait;
    }
    let backlog = backlog();
    if backlog.held_back {
        ImageChoice::Wait
    } else if settings.reached_hard_limit(account) {
        ImageChoice::QueueFirstAndHold
    } else if backlog.queued {
        ImageChoice::Wait
    } else if backlog.pages >= backlog.pages_max {
        ImageChoice::QueueAndHold
    } else {
        ImageChoice::Queue
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

    const IDLE: BacklogView = BacklogView { queued: false, held_back: false, pages: 0, pages_max: 100 };

    fn chosen(deltas: u32, bytes: u64, backlog: BacklogView) -> ImageChoice {
        choose(&account(deltas, bytes), &SETTINGS, || backlog)
    }

    #[test]
    fn either_threshold_is_enough() {
        assert_eq!(chosen(9, 999, IDLE), ImageChoice::Wait);
        assert_eq!(chosen(10, 100, IDLE), ImageChoice::Queue);
        assert_eq!(chosen(2, 1000, IDLE), ImageChoice::Queue);
        assert_eq!(chosen(1, 1_000_000, IDLE), ImageChoice::Wait);
    }

    #[test]
    fn a_queued_page_is_not_queued_again_until_it_must_go_first() {
        let queued = BacklogView { queued: true, pages: 1, ..IDLE };
        assert_eq!(chosen(39, 0, queued), ImageChoice::Wait);
        assert_eq!(chosen(40, 0, queued), ImageChoice::QueueFirstAndHold);
    }

    #[test]
    fn a_full_queue_holds_ingest() {
        let full = BacklogView { pages: 100, ..IDLE };
        assert_eq!(chosen(10, 0, full), ImageChoice::QueueAndHold);
        assert_eq!(chosen(9, 0, full), ImageChoice::Wait);
    }

    #[test]
    fn a_page_of_which_no_image_can_be_made_holds_nobody() {
        assert_eq!(chosen(1000, 0, BacklogView { held_back: true, ..IDLE }), ImageChoice::Wait);
    }

    proptest! {
        #[test]
        fn no_chain_past_the_hard_limit_grows(
            deltas in 0u32..1000,
            bytes in 0u64..100_000,
            queued: bool,
            pages in 0usize..200,
        ) {
            let choice = chosen(deltas, bytes, BacklogView { queued, pages, ..IDLE });
            if deltas >= HARD_LIMIT * SETTINGS.max_deltas {
                prop_assert_eq!(choice, ImageChoice::QueueFirstAndHold);
            }
            if !queued && SETTINGS.reached(deltas, bytes) {
                prop_assert_ne!(choice, ImageChoice::Wait);
            }
        }
    }
}
