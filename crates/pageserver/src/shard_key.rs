//! What names a shard.

use quire_types::{BranchKey, ShardId};
use std::path::{Path, PathBuf};

/// Names a shard of a branch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardKey {
    /// The branch.
    pub branch: BranchKey,
    /// The shard.
    pub shard: ShardId,
}

impl ShardKey {
    /// Its directory under `data_dir`.
    pub fn directory(&self, data_dir: &Path) -> PathBuf {
        let shard = format!("{}-{}", self.shard.number, self.shard.count);
        data_dir.join(self.branch.project.to_string()).join(self.branch.branch.to_string()).join(shard)
    }
}
