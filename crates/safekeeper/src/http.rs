//! `/status` and `/metrics`.

use crate::branch_log::BranchLog;
use crate::shared::Shared;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use quire_types::{BranchId, Lsn, NodeId, ProjectId, Term};
use serde::Serialize;
use std::sync::Arc;

/// What `/status` says.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The safekeeper.
    pub node: NodeId,
    /// Its branches.
    pub branches: Vec<BranchStatus>,
}

/// A branch in [`Status`].
#[derive(Debug, Serialize)]
pub struct BranchStatus {
    /// Its project.
    pub project: ProjectId,
    /// The branch.
    pub branch: BranchId,
    /// Why the log cannot be used, if it cannot; the rest is then as it last was.
    pub error: Option<String>,
    /// The acceptor's term.
    pub term: Term,
    /// Everything before is durable here.
    pub flush: Lsn,
    /// Everything before is committed.
    pub commit: Lsn,
    /// The oldest WAL that is kept.
    pub oldest: Lsn,
    /// Who follows.
    pub followers: Vec<FollowerStatus>,
}

/// A follower in [`BranchStatus`].
#[derive(Debug, Serialize)]
pub struct FollowerStatus {
    /// The shard, as `number/count`.
    pub shard: String,
    /// What it has made durable.
    pub durable: Lsn,
}

impl BranchStatus {
    fn of(log: &BranchLog) -> BranchStatus {
        let (key, published) = (log.key(), log.published());
        let follower = |(shard, durable): (&quire_types::ShardId, &Lsn)| FollowerStatus {
            shard: format!("{}/{}", shard.number, shard.count),
            durable: *durable,
        };
        BranchStatus {
            project: key.project,
            branch: key.branch,
            error: published.unusable,
            term: published.term,
            flush: published.flush,
            commit: published.commit,
            oldest: published.oldest,
            followers: published.followers.iter().map(follower).collect(),
        }
    }
}

/// The routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/status", get(status)).route("/metrics", get(metrics)).with_state(shared)
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Status> {
    quire_crash::plant("safekeeper.http");
    let branches = shared.logs.all().iter().map(|log| BranchStatus::of(log)).collect();
    Json(Status { node: shared.node, branches })
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let logs: Vec<_> = shared.logs.all().iter().map(|log| (log.key(), log.published())).collect();
    match shared.metrics.encode(&logs) {
        Ok(text) => {
            let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, open_metrics)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
