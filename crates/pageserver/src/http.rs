//! Status, metrics and settings over HTTP, for people and scripts. [`quire_api::pageserver`] has the requests and
//! answers.

use crate::metrics::{Metrics, ShardGauges};
use crate::shard::Shard;
use crate::shard_key::ShardKey;
use crate::shards::{ShardState, Shards};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use quire_api::pageserver::{
    HOT, HotPage, ImageStatus, ImageThresholds, LayerStatus, OpenShard, PAGE, PageChain, PageVersion, Positions,
    Pushdown, PushdownState, SETTINGS, ShardStatus, Status, WalStatus,
};
use quire_api::{METRICS, OPEN_METRICS, STATUS};
use quire_layers::accounts::Account;
use quire_layers::error::ReadError;
use quire_layers::image_policy::ImageSettings;
use quire_layers::store::StoreSize;
use quire_types::{BranchId, BranchKey, Fork, Key, Lsn, ProjectId, RelTag, ShardId};
use serde::Deserialize;
use std::fmt;
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
        .route(STATUS, get(status))
        .route(METRICS, get(metrics))
        .route(PAGE, get(page))
        .route(HOT, get(hot))
        .route(SETTINGS, put(settings))
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
            let error = progress.health.reason().map(|reason| reason.to_string());
            (error.or_else(|| shard.pages().unread()), Some(open_status(shard)))
        }
    };
    ShardStatus { project: key.branch.project, branch: key.branch.branch, shard: key.shard, error, open }
}

fn open_status(shard: &Shard) -> OpenShard {
    let pages = shard.pages();
    let (progress, origin, counted) = (pages.progress(), pages.origin(), pages.metrics());
    OpenShard {
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
        layers: layer_status(pages.store().size()),
    }
}

fn pushdown(shard: &Shard) -> Pushdown {
    match shard.full_page_writes() {
        Ok(Some(writes)) if writes.on => Pushdown { state: PushdownState::Off, since_lsn: Some(writes.since) },
        Ok(Some(writes)) => Pushdown { state: PushdownState::On, since_lsn: Some(writes.since) },
        Ok(None) | Err(_) => Pushdown { state: PushdownState::Unknown, since_lsn: None },
    }
}

fn layer_status(size: StoreSize) -> LayerStatus {
    let StoreSize { runs, layers, layer_bytes, frozen_memtables, memtable_bytes } = size;
    LayerStatus { runs, layers, layer_bytes, frozen_memtables, memtable_bytes }
}

fn image_status(shard: &Shard) -> ImageStatus {
    let pages = shard.pages();
    let (counted, settings) = (pages.metrics(), pages.images().settings());
    ImageStatus {
        made: counted.images_made(),
        bytes_written: counted.images_made() * quire_types::PAGE_SIZE as u64,
        backlog_pages: pages.images().backlog_pages(),
        broken_pages: pages.images().broken_pages(),
        incomplete_pages: pages.images().incomplete_pages(),
        longest_chain: pages.images().longest_chain().map_or(0, |(_, account)| account.deltas),
        long_chain_reads: counted.long_chain_reads(),
        thresholds: ImageThresholds { max_deltas: settings.max_deltas, max_bytes: settings.max_bytes },
    }
}

async fn metrics(State(state): State<HttpState>) -> Result<Response, Refusal> {
    // Accounts are walked under a lock that flushes take.
    let text = spawn_blocking(move || render_metrics(&state)).await.map_err(internal)?.map_err(internal)?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

fn render_metrics(state: &HttpState) -> Result<String, fmt::Error> {
    for (key, known) in state.shards.list() {
        if let ShardState::Open(shard) = known {
            state.metrics.set_gauges(key.branch, key.shard, gauges(&shard));
        }
    }
    state.metrics.encode()
}

fn gauges(shard: &Shard) -> ShardGauges {
    let pages = shard.pages();
    let (progress, size) = (pages.progress(), pages.store().size());
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    ShardGauges {
        ingested: gauge(progress.ingested.0),
        durable: gauge(progress.durable.0),
        backlog: gauge(pages.images().backlog_pages() as u64),
        longest_chain: pages.images().longest_chain().map_or(0, |(_, account)| i64::from(account.deltas)),
        incomplete_pages: gauge(pages.images().incomplete_pages() as u64),
        layer_bytes: gauge(size.layer_bytes),
        memtable_bytes: gauge(size.memtable_bytes as u64),
        ingest_stopped: progress.health.is_stopped().into(),
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

async fn page(
    State(state): State<HttpState>,
    Query(query): Query<BranchQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Json<PageChain>, Refusal> {
    let (shard, key) = (query.find(&state)?, page.key()?);
    let lsn = page.lsn.unwrap_or_else(|| shard.pages().progress().ingested);
    let read = spawn_blocking(move || shard.pages().page_chain(key, lsn)).await;
    let chain = read.map_err(internal)?.map_err(refuse_read)?.chain;
    let version = |version: &quire_layers::value::Version| PageVersion {
        lsn: version.lsn,
        kind: version.kind.name().to_owned(),
        bytes: version.payload.len(),
    };
    Ok(Json(PageChain {
        lsn,
        image_lsn: chain.image_lsn(),
        deltas: chain.delta_count(),
        delta_bytes: chain.delta_bytes(),
        versions: chain.versions().map(version).collect(),
    }))
}

async fn hot(State(state): State<HttpState>, Query(query): Query<BranchQuery>) -> Result<Json<Vec<HotPage>>, Refusal> {
    let shard = query.find(&state)?;
    let hot = |(key, account): (Key, Account)| HotPage {
        page: key.to_string(),
        deltas: account.deltas,
        delta_bytes: account.bytes,
        last_lsn: account.last,
    };
    let count = query.count.unwrap_or(HOT_PAGES).min(HOT_PAGES_MAX);
    let longest = spawn_blocking(move || shard.pages().store().longest_chains(count)).await.map_err(internal)?;
    Ok(Json(longest.into_iter().map(hot).collect()))
}

async fn settings(
    State(state): State<HttpState>,
    Query(query): Query<BranchQuery>,
    Json(thresholds): Json<ImageThresholds>,
) -> Result<StatusCode, Refusal> {
    let shard = query.find(&state)?;
    let ImageThresholds { max_deltas, max_bytes } = thresholds;
    if max_deltas == 0 || max_bytes == 0 {
        return Err((StatusCode::BAD_REQUEST, "thresholds must not be 0".into()));
    }
    let set =
        spawn_blocking(move || shard.pages().images().set_settings(ImageSettings { max_deltas, max_bytes })).await;
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

fn internal(error: impl fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
