//! Who and what: projects, branches, shards, nodes, terms.

use std::fmt;
use std::str::FromStr;

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an identity: {0:?} (expected 32 hexadecimal digits)")]
pub struct IdParseError(pub String);

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;

            fn from_str(text: &str) -> Result<Self, IdParseError> {
                let wrong = || IdParseError(text.to_owned());
                if text.len() != 32 || !text.is_ascii() {
                    return Err(wrong());
                }
                let value = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
                Ok(Self(value.to_be_bytes()))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

identity! {
    /// A project: one database system with its branches and settings.
    ProjectId
}
identity! {
    /// A branch: one line of WAL within a project.
    BranchId
}

/// The pair that names a branch everywhere: in files, messages and metrics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct BranchKey {
    /// The project the branch belongs to.
    pub project: ProjectId,
    /// The branch.
    pub branch: BranchId,
}

impl fmt::Display for BranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.branch)
    }
}

/// Which of a branch's shards: `number` of `count`; an unsharded branch is 0 of 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct ShardId {
    /// From 0 to `count` - 1.
    pub number: u8,
    /// How many shards the branch has, at least 1.
    pub count: u8,
}

impl ShardId {
    /// The only shard of an unsharded branch.
    pub const UNSHARDED: ShardId = ShardId { number: 0, count: 1 };
}

impl Default for ShardId {
    fn default() -> ShardId {
        ShardId::UNSHARDED
    }
}

/// One process of a role, numbered from 1 in the deployment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A ballot of the WAL quorum; 0 means that there was no election yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// The highest that can be real. What is above is refused wherever it comes from, so that there is always a next
    /// term.
    pub const MAX: Term = Term(1 << 62);

    /// How far a term can be ahead of the highest one known. Campaigns count up by one, a few in a second at most, so a
    /// real one is never farther ahead; but one message from any client that reaches the port would otherwise use up
    /// all terms there are.
    pub const LEAD_MAX: u64 = 1 << 32;

    /// Whether who knows of `known` as the highest can take this for a term.
    pub fn is_in_reach_of(self, known: Term) -> bool {
        self <= Term::MAX && self.0.saturating_sub(known.0) <= Term::LEAD_MAX
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_far_ahead_is_out_of_reach() {
        let known = Term(5);
        for term in [0, 5, 6, 5 + Term::LEAD_MAX] {
            assert!(Term(term).is_in_reach_of(known), "{term}");
        }
        for term in [6 + Term::LEAD_MAX, Term::MAX.0, u64::MAX] {
            assert!(!Term(term).is_in_reach_of(known), "{term}");
        }
        assert!(Term::MAX.is_in_reach_of(Term::MAX) && !Term(Term::MAX.0 + 1).is_in_reach_of(Term::MAX));
    }

    #[test]
    fn identity_reads_back_what_it_prints() {
        let id = BranchId([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "07", "zz", &"g".repeat(32), &"é".repeat(16)] {
            assert!(wrong.parse::<BranchId>().is_err(), "{wrong}");
        }
    }
}
