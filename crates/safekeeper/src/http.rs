//! `/status` and `/metrics`.

use crate::branch_log::BranchLog;
use crate::shared::Shared;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use quire_api::safekeeper::{BranchStatus, FollowerStatus, Status};
use quire_api::{METRICS, OPEN_METRICS, STATUS};
use quire_types::{Lsn, ShardId};
use std::sync::Arc;

fn branch_status(log: &BranchLog) -> BranchStatus {
    let (key, published) = (log.key(), log.published());
    let follower = |(shard, durable): (&ShardId, &Lsn)| FollowerStatus {
        shard: format!("{}/{}", shard.number, shard.count),
        durable: *durable,
    };
    BranchStatus {
        project: key.project,
        branch: key.branch,
        error: published.unusable.map(|error| error.to_string()),
        term: published.term,
        flush: published.flush,
        commit: published.commit,
        oldest: published.oldest,
        followers: published.followers.iter().map(follower).collect(),
    }
}

/// The routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().route(STATUS, get(status)).route(METRICS, get(metrics)).with_state(shared)
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Status> {
    quire_crash::plant("safekeeper.http");
    let branches = shared.logs.all().iter().map(|log| branch_status(log)).collect();
    Json(Status { node: shared.node, branches })
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let logs: Vec<_> = shared.logs.all().iter().map(|log| (log.key(), log.published())).collect();
    match shared.metrics.encode(&logs) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
