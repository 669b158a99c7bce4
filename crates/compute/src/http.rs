//! The agent's HTTP interface: `/status` and `/metrics` to look, the rest to give orders, which are answered when
//! carried out.

use crate::covered::PAGES_WANTED;
use crate::handle::Handle;
use crate::kept::settings;
use crate::metrics::FetchReason;
use crate::quorum::QuorumStatus;
use crate::throttle::Throttled;
use crate::{Error, conf, evidence};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use quire_types::{Lsn, Term};
use quire_wal::ServerVersion;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::net::TcpListener;

/// What `/status` says.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The branch's name.
    pub branch: String,
    /// What the compute is doing.
    pub state: &'static str,
    /// What went wrong last, if it is not running.
    pub error: Option<String>,
    /// How often PostgreSQL itself has failed to start since it last ran.
    pub failed_starts: u32,
    /// Which settings of `ALTER SYSTEM` were left out because PostgreSQL did not start with them, and what to do.
    pub settings_rejected: Option<String>,
    /// That another PostgreSQL is installed than the one that runs, and what to do.
    pub outdated: Option<String>,
    /// The postmaster's process id.
    pub pid: Option<i32>,
    /// A libpq URI.
    pub url: String,
    /// The term that is held.
    pub term: Option<Term>,
    /// Where the compute started: what is absent in the cache is read as of then.
    pub start_lsn: Option<Lsn>,
    /// The server that writes the log.
    pub server: Option<Server>,
    /// Positions in the log.
    pub lsn: Positions,
    /// The quorum.
    pub quorum: Option<QuorumStatus>,
    /// Whether the pageserver answers.
    pub storage_connected: Option<bool>,
    /// What holds commits back, if anything does.
    pub throttle: Option<Throttled>,
    /// The cache.
    pub cache: Cache,
    /// Whether storage is to make the full-page images.
    pub pushdown: bool,
    /// How pages compare with storage's.
    pub verification: Sampling,
}

/// Which PostgreSQL runs.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// Its version, such as 15.18.
    pub version: String,
    /// Why redo of what it writes is not known to be right, if it is not.
    pub doubt: Option<String>,
    /// In that case: how many of its pages were compared and equal, by kind.
    pub compared: BTreeMap<&'static str, usize>,
    /// And how many of each are wanted.
    pub wanted: usize,
}

/// What came of comparing pages while PostgreSQL works.
#[derive(Clone, Debug, Serialize)]
pub struct Sampling {
    /// Pages a second.
    pub rate: u32,
    /// Pages compared since the agent started.
    pub checked: u64,
    /// Pages of those that differ.
    pub mismatches: u64,
    /// Where pages that differ are put aside.
    pub evidence: PathBuf,
    /// How many lie there, of whatever start of the agent.
    pub kept: usize,
    /// Files of the relations that are under guard.
    pub guarded: Vec<String>,
}

/// Positions in the log.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Positions {
    /// End of what was handed to the quorum.
    pub written: Option<Lsn>,
    /// End of what is committed.
    pub committed: Option<Lsn>,
}

/// What the cache has done since the last cold start.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cache {
    /// Fetches that processes asked for.
    pub fills: u64,
    /// Fetches that failed.
    pub fill_errors: u64,
    /// Pages that came from storage since the agent started.
    pub blocks: u64,
    /// Requests that they came with.
    pub requests: u64,
    /// Pages among them that were fetched because they were in use before the last cold start.
    pub warmed: u64,
    /// Pages compared by the running, or the last, verification.
    pub verified: u64,
    /// Bytes it holds, as last measured; none if it is not bounded.
    pub bytes: Option<u64>,
    /// Beyond how many bytes pages leave it.
    pub limit: Option<u64>,
    /// Pages that left it since the agent started.
    pub dropped: u64,
}

#[derive(Deserialize, Default)]
struct StartOptions {
    #[serde(default)]
    cold: bool,
}

#[derive(Deserialize)]
struct Pushdown {
    on: bool,
}

/// Serves until aborted.
pub async fn serve(listener: TcpListener, handle: Handle) {
    let router = Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/start", post(start))
        .route("/stop", post(stop))
        .route("/restart", post(restart))
        .route("/forget", post(forget))
        .route("/pushdown", post(pushdown))
        .route("/verify", post(verify))
        .with_state(handle);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the HTTP interface has failed");
    }
}

impl Handle {
    /// What `/status` says.
    pub fn status(&self) -> Status {
        let (state, session, counters) = (self.state(), self.session(), self.counters());
        let quorum = session.as_ref().map(|session| session.quorum.status());
        let positions = |quorum: &QuorumStatus| Positions { written: quorum.written, committed: quorum.committed };
        let storage_connected = session.as_ref().map(|session| session.client.is_connected());
        let throttle = session.as_ref().and_then(|session| session.throttled());
        Status {
            branch: self.config().branch_name.clone(),
            state: state.phase.name(),
            error: state.error,
            failed_starts: state.failed_starts,
            settings_rejected: settings::rejected_note(self.config()),
            outdated: self.outdated().map(|outdated| outdated.note()),
            pid: self.pid(),
            url: self.config().url(),
            term: quorum.as_ref().and_then(|quorum| quorum.term),
            start_lsn: session.as_ref().map(|session| session.start),
            server: session.map(|session| self.server(session.server)),
            lsn: quorum.as_ref().map(positions).unwrap_or_default(),
            quorum,
            storage_connected,
            throttle,
            cache: Cache {
                fills: counters.fills,
                fill_errors: counters.fill_errors,
                blocks: self.metrics().fetched_pages(),
                requests: self.metrics().fetch_requests(),
                warmed: self.metrics().fetched_pages_for(FetchReason::WarmUp),
                verified: self.verified_pages(),
                bytes: self.config().is_bounded().then(|| self.metrics().cache_bytes()),
                limit: self.config().cache_bytes,
                dropped: self.metrics().dropped_pages(),
            },
            pushdown: conf::read_pushdown(self.config()),
            verification: self.sampling(),
        }
    }

    fn server(&self, server: ServerVersion) -> Server {
        Server {
            version: server.to_string(),
            doubt: self.setting().version.doubts(server),
            compared: self.covered().counts(server),
            wanted: PAGES_WANTED,
        }
    }

    fn sampling(&self) -> Sampling {
        let (checked, mismatches) = self.metrics().samples();
        let evidence = self.config().evidence_dir();
        let kept = evidence::count(&evidence);
        let guarded = self.session().map(|session| session.guard.paths()).unwrap_or_default();
        Sampling { rate: self.config().verify_rate, checked, mismatches, evidence, kept, guarded }
    }
}

async fn status(State(handle): State<Handle>) -> Json<Status> {
    quire_crash::plant("compute.http");
    Json(handle.status())
}

async fn metrics(State(handle): State<Handle>) -> Response {
    let session = handle.session();
    let quorum = session.as_ref().map(|session| session.quorum.status());
    if let Some(session) = &session {
        handle.metrics().throttle(&session.throttle, session.throttled().as_ref());
    }
    match handle.metrics().render(&handle.counters(), quorum.as_ref()) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn start(State(handle): State<Handle>, options: Option<Json<StartOptions>>) -> Response {
    let cold = options.is_some_and(|Json(options)| options.cold);
    answer(&handle, handle.start(cold).await)
}

async fn stop(State(handle): State<Handle>) -> Response {
    answer(&handle, handle.stop().await)
}

async fn restart(State(handle): State<Handle>, options: Option<Json<StartOptions>>) -> Response {
    let cold = options.is_some_and(|Json(options)| options.cold);
    answer(&handle, handle.restart(cold).await)
}

async fn forget(State(handle): State<Handle>) -> Response {
    handle.forget();
    Json(handle.status()).into_response()
}

async fn pushdown(State(handle): State<Handle>, Json(wanted): Json<Pushdown>) -> Response {
    answer(&handle, handle.pushdown(wanted.on).await)
}

async fn verify(State(handle): State<Handle>) -> Response {
    match handle.verify().await {
        Ok(found) => Json(found).into_response(),
        Err(error) => refusal(&error),
    }
}

fn answer(handle: &Handle, outcome: Result<(), Error>) -> Response {
    match outcome {
        Ok(()) => Json(handle.status()).into_response(),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &Error) -> Response {
    let status = match error {
        Error::WrongState { .. } => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(serde_json::json!({ "error": error.to_string() }))).into_response()
}
