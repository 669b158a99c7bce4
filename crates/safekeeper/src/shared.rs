//! What all connections of a safekeeper share.

use crate::branch_logs::BranchLogs;
use crate::metrics::Metrics;
use quire_types::NodeId;
use std::sync::Arc;

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub node: NodeId,
    pub logs: BranchLogs,
    pub metrics: Arc<Metrics>,
}
