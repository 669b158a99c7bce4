//! The agent's HTTP interface: `/status` and `/metrics` to look, the rest to give orders, which are answered when
//! carried out.

use crate::covered::PAGES_WANTED;
use crate::handle::Handle;
use crate::kept::settings;
use crate::metrics::FetchReason;
use crate::{Error, conf, evidence};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use quire_api::compute::{
    Cache, FORGET, PUSHDOWN, Positions, Pushdown, QuorumStatus, RESTART, START, STOP, Sampling, Server, StartOptions,
    Status, VERIFY,
};
use quire_api::{METRICS, OPEN_METRICS, Refusal, STATUS};
use quire_net::Acceptor;
use quire_wal::ServerVersion;

/// Serves until aborted.
pub async fn serve(acceptor: Acceptor, handle: Handle) {
    let router = Router::new()
        .route(STATUS, get(status))
        .route(METRICS, get(metrics))
        .route(START, post(start))
        .route(STOP, post(stop))
        .route(RESTART, post(restart))
        .route(FORGET, post(forget))
        .route(PUSHDOWN, post(pushdown))
        .route(VERIFY, post(verify))
        .with_state(handle);
    if let Err(error) = axum::serve(acceptor, router).await {
        tracing::error!(%error, "the HTTP interface has failed");
    }
}

impl Handle {
    /// The answer to `GET /status`.
    pub fn status(&self) -> Status {
        let (state, session, counters) = (self.state(), self.session(), self.counters());
        let quorum = session.as_ref().map(|session| session.quorum.status());
        let positions = |quorum: &QuorumStatus| Positions { written: quorum.written, committed: quorum.committed };
        let storage_connected = session.as_ref().map(|session| session.client.is_connected());
        let throttle = session.as_ref().and_then(|session| session.throttled());
        Status {
            branch: self.config().branch_name.clone(),
            state: state.phase,
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
                limit: self.config().tuning.cache_size().bytes(),
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
            compared: self.covered().counts(server).into_iter().map(|(kind, pages)| (kind.to_owned(), pages)).collect(),
            wanted: PAGES_WANTED,
        }
    }

    fn sampling(&self) -> Sampling {
        let (checked, mismatches) = self.metrics().samples();
        let evidence = self.config().evidence_dir();
        let kept = evidence::count(&evidence);
        let guarded = self.session().map(|session| session.guard.paths()).unwrap_or_default();
        Sampling { rate: self.config().tuning.verify_rate(), checked, mismatches, evidence, kept, guarded }
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
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
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
    (status, Json(Refusal { error: error.to_string() })).into_response()
}
