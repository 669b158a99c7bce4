//! Status, metrics and settings over HTTP, for people and scripts.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | all branches |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /page?project=&branch=&tablespace=&database=&relation=&fork=&block=[&lsn=]` | the chain of a page |
//! | `GET /hot?project=&branch=[&count=]` | the longest chains of a branch |
//! | `PUT /settings?project=&branch=` with `{"max_deltas":, "max_bytes":}` | 204 |
//!
//! `shard=` and `shards=` name a shard; 0 of 1 is meant where they are missing.

use crate::accounts::Account;
use crate::error::ReadError;
use crate::image_policy::ImageSettings;
use crate::metrics::{Metrics, ShardGauges};
use crate::shard::Shard;
use crate::shard_key::ShardKey;
use crate::shards::{ShardState, Shards};
use crate::store::StoreSize;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use quire_types::{BranchId, BranchKey, Fork, Key, Lsn, ProjectId, RelTag, ShardId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Pages that `/hot` lists where it is not told how many.
const HOT_PAGES: usize = 20;

/// Pages that `/hot` lists at most.
const HOT_PAGES_MAX: usize = 1000;

/// What the handlers see.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// The branches.
    pub shards: Arc<Shards>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// The routes.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/page", get(page))
        .route("/hot", get(hot))
        .route("/settings", put(settings))
        .with_state(state)
}

/// A refusal: a status and a text.
type Refusal = (StatusCode, String);

#[derive(Debug, Deserialize)]
struct BranchQuery {
    project: ProjectId,
    branch: BranchId,
    shard: Option<u8>,
    shards: Option<u8>,
    count: Option<usize>,
}

impl BranchQuery {
    fn find(&self, state: &HttpState) -> Result<Arc<Shard>, Refusal> {
        let shard = ShardId { number: self.shard.unwrap_or(0), count: self.shards.unwrap_or(1) };
        let branch = BranchKey { project: self.project, branch: self.branch };
        match state.shards.get(ShardKey { branch, shard }) {
            None => Err((StatusCode::NOT_FOUND, format!("branch {branch} is not here"))),
            Some(ShardState::Failed(reason)) => Err((StatusCode::SERVICE_UNAVAILABLE, reason.to_string())),
            Some(ShardState::Open(shard)) => Ok(shard),
        }
    }
}

#[derive(Debug, Serialize)]
struct Status {
    branches: Vec<ShardStatus>,
}

#[derive(Debug, Serialize)]
struct ShardStatus {
    project: ProjectId,
    branch: BranchId,
    shard: ShardId,
    /// Why ingest stopped, or nothing becomes durable, or what cannot be read, or why the branch cannot be opened.
    error: Option<String>,
    #[serde(flatten)]
    open: Option<OpenStatus>,
}

#[derive(Debug, Serialize)]
struct OpenStatus {
    lsn: Positions,
    start: Lsn,
    postgres_version: u32,
    pushdown: Pushdown,
    images: ImageStatus,
    wal: WalStatus,
    layers: StoreSize,
}

#[derive(Debug, Serialize)]
struct Positions {
    ingested: Lsn,
    durable: Lsn,
}

#[derive(Debug, Serialize)]
struct Pushdown {
    /// `on` where the compute leaves page images to storage, `off` where it logs them, `unknown` if that cannot be
    /// read.
    state: &'static str,
    since_lsn: Option<Lsn>,
}

#[derive(Debug, Serialize)]
struct ImageStatus {
    made: u64,
    bytes_written: u64,
    backlog_pages: usize,
    broken_pages: usize,
    /// Pages without images because bytes of theirs were not logged and may still come.
    incomplete_pages: usize,
    longest_chain: u32,
    long_chain_reads: u64,
    max_deltas: u32,
    max_bytes: u64,
}

#[derive(Debug, Serialize)]
struct WalStatus {
    records: u64,
    bytes: u64,
    full_page_images: u64,
}

async fn status(State(state): State<HttpState>) -> Result<Json<Status>, Refusal> {
    quire_crash::plant("pageserver.http");
    let all = move || state.shards.list().into_iter().map(|(key, known)| shard_status(key, &known)).collect();
    let branches = spawn_blocking(all).await.map_err(internal)?;
    Ok(Json(Status { branches }))
}

fn shard_status(key: ShardKey, known: &ShardState) -> ShardStatus {
    let (error, open) = match known {
        ShardState::Failed(reason) => (Some(reason.to_string()), None),
        ShardState::Open(shard) => {
            let progress = shard.pages().progress();
            let error = progress.stopped.or(progress.held).or(progress.unread).map(|reason| reason.to_string());
            (error.or_else(|| shard.pages().unread()), Some(open_status(shard)))
        }
    };
    ShardStatus { project: key.branch.project, branch: key.branch.branch, shard: key.shard, error, open }
}

fn open_status(shard: &Shard) -> OpenStatus {
    let pages = shard.pages();
    let (progress, origin, counted) = (pages.progress(), pages.origin(), pages.metrics());
    OpenStatus {
        lsn: Positions { ingested: progress.ingested, durable: progress.durable },
        start: origin.start,
        postgres_version: origin.postgres_version,
        pushdown: pushdown(shard),
        images: image_status(shard),
        wal: WalStatus {
            records: counted.records(),
            bytes: counted.wal_bytes(),
            full_page_images: counted.full_page_images(),
        },
        layers: pages.store().size(),
    }
}

fn pushdown(shard: &Shard) -> Pushdown {
    match shard.full_page_writes() {
        Ok(Some(writes)) if writes.on => Pushdown { state: "off", since_lsn: Some(writes.since) },
        Ok(Some(writes)) => Pushdown { state: "on", since_lsn: Some(writes.since) },
        Ok(None) | Err(_) => Pushdown { state: "unknown", since_lsn: None },
    }
}

fn image_status(shard: &Shard) -> ImageStatus {
    let pages = shard.pages();
    let (counted, settings) = (pages.metrics(), pages.settings());
    ImageStatus {
        made: counted.images_made(),
        bytes_written: counted.images_made() * quire_types::PAGE_SIZE as u64,
        backlog_pages: pages.image_backlog(),
        broken_pages: pages.broken_pages(),
        incomplete_pages: pages.incomplete_pages(),
        longest_chain: pages.longest_chain().map_or(0, |(_, account)| account.deltas),
        long_chain_reads: counted.long_chain_reads(),
        max_deltas: settings.max_deltas,
        max_bytes: settings.max_bytes,
    }
}

async fn metrics(State(state): State<HttpState>) -> Result<Response, Refusal> {
    for (key, known) in state.shards.list() {
        if let ShardState::Open(shard) = known {
            state.metrics.set_gauges(key.branch, key.shard, gauges(&shard));
        }
    }
    let text = state.metrics.encode().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

fn gauges(shard: &Shard) -> ShardGauges {
    let pages = shard.pages();
    let (progress, size) = (pages.progress(), pages.store().size());
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    ShardGauges {
        ingested: gauge(progress.ingested.0),
        durable: gauge(progress.durable.0),
        backlog: gauge(pages.image_backlog() as u64),
        longest_chain: pages.longest_chain().map_or(0, |(_, account)| i64::from(account.deltas)),
        incomplete_pages: gauge(pages.incomplete_pages() as u64),
        layer_bytes: gauge(size.layer_bytes),
        memtable_bytes: gauge(size.memtable_bytes as u64),
        ingest_stopped: progress.stopped.is_some().into(),
    }
}

#[derive(Debug, Deserialize)]
struct PageQuery {
    tablespace: u32,
    database: u32,
    relation: u32,
    #[serde(default)]
    fork: String,
    block: u32,
    lsn: Option<Lsn>,
}

impl PageQuery {
    fn key(&self) -> Result<Key, Refusal> {
        let fork = match self.fork.as_str() {
            "" | "main" => Fork::Main,
            "fsm" => Fork::FreeSpaceMap,
            "vm" => Fork::VisibilityMap,
            "init" => Fork::Init,
            other => return Err((StatusCode::BAD_REQUEST, format!("no fork is called {other:?}"))),
        };
        let rel = RelTag { tablespace: self.tablespace, database: self.database, relation: self.relation, fork };
        Ok(Key::RelBlock { rel, block: self.block })
    }
}

#[derive(Debug, Serialize)]
struct PageStatus {
    lsn: Lsn,
    image_lsn: Option<Lsn>,
    deltas: u32,
    delta_bytes: u64,
    versions: Vec<VersionStatus>,
}

#[derive(Debug, Serialize)]
struct VersionStatus {
    lsn: Lsn,
    kind: &'static str,
    bytes: usize,
}

async fn page(
    State(state): State<HttpState>,
    Query(query): Query<BranchQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Json<PageStatus>, Refusal> {
    let (shard, key) = (query.find(&state)?, page.key()?);
    let lsn = page.lsn.unwrap_or_else(|| shard.pages().progress().ingested);
    let read = spawn_blocking(move || shard.pages().page_chain(key, lsn)).await;
    let chain = read.map_err(internal)?.map_err(refuse_read)?.chain;
    let version = |version: &crate::value::Version| VersionStatus {
        lsn: version.lsn,
        kind: version.kind.name(),
        bytes: version.payload.len(),
    };
    Ok(Json(PageStatus {
        lsn,
        image_lsn: chain.image_lsn(),
        deltas: chain.delta_count(),
        delta_bytes: chain.delta_bytes(),
        versions: chain.versions().map(version).collect(),
    }))
}

#[derive(Debug, Serialize)]
struct HotPage {
    page: String,
    deltas: u32,
    delta_bytes: u64,
    last_lsn: Lsn,
}

async fn hot(State(state): State<HttpState>, Query(query): Query<BranchQuery>) -> Result<Json<Vec<HotPage>>, Refusal> {
    let shard = query.find(&state)?;
    let hot = |(key, account): (Key, Account)| HotPage {
        page: key.to_string(),
        deltas: account.deltas,
        delta_bytes: account.bytes,
        last_lsn: account.last,
    };
    let longest = shard.pages().store().longest_chains(query.count.unwrap_or(HOT_PAGES).min(HOT_PAGES_MAX));
    Ok(Json(longest.into_iter().map(hot).collect()))
}

async fn settings(
    State(state): State<HttpState>,
    Query(query): Query<BranchQuery>,
    Json(settings): Json<ImageSettings>,
) -> Result<StatusCode, Refusal> {
    let shard = query.find(&state)?;
    if settings.max_deltas == 0 || settings.max_bytes == 0 {
        return Err((StatusCode::BAD_REQUEST, "thresholds must not be 0".into()));
    }
    let set = spawn_blocking(move || shard.pages().set_settings(settings)).await;
    set.map_err(internal)?.map_err(internal)?;
    Ok(StatusCode::NO_CONTENT)
}

fn refuse_read(error: ReadError) -> Refusal {
    let status = match error {
        ReadError::NoSuchKey { .. } => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string())
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
