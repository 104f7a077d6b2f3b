//! HTTP: thin handlers over the rules. Nothing is decided here but shapes and statuses.

mod arriving;
mod auth;
mod backup;
mod jobs;
mod restore;
mod server;
mod vms;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde::Deserialize;

use crate::error::Refusal;
use crate::service::{PointQuery, Service};
use crate::types::Code;

/// All routes. Every one but `/health` needs a token.
pub fn router(service: Service) -> Router {
    let body = service.config().limits.body_bytes;
    let open = Router::new().route("/health", get(server::health));
    let closed = Router::new()
        .route("/vms", get(vms::list).post(vms::add))
        .route("/vms/{id}", get(vms::show))
        .route("/backup/start", post(backup::start))
        .route("/backup/list", get(backup::list))
        .route("/backup/chain", get(backup::chain))
        .route("/backup/{id}", get(backup::show).delete(backup::delete))
        .route("/backup/{id}/complete", post(backup::complete))
        .route("/backup/{id}/cancel", post(backup::cancel))
        .route("/backup/{id}/verify", post(backup::verify))
        .route(
            "/backup/{id}/disks/{disk}/changes",
            put(backup::put_changes),
        )
        .route("/restore/disk", post(restore::disk))
        .route("/restore/export", post(restore::export))
        .route("/restore/exports", get(restore::exports))
        .route("/restore/export/{id}", delete(restore::end_export))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/repositories", get(server::repositories))
        .route("/repositories/{name}/quarantine", get(server::quarantine))
        .route(
            "/repositories/{name}/quarantine/{id}/adopt",
            post(server::adopt),
        )
        .route("/exports", get(server::exports))
        .route("/exports/reload", post(server::reload_exports))
        .layer(middleware::from_fn_with_state(
            service.clone(),
            auth::require_token,
        ));
    Router::new()
        .nest("/api/v1", open.merge(closed).fallback(no_route))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(body))
        .layer(middleware::from_fn_with_state(service.clone(), time_out))
        .with_state(service)
}

async fn no_route(request: Request) -> Refusal {
    Refusal::new(
        Code::NoSuchRoute,
        format!("there is no route {}", request.uri().path()),
    )
}

async fn no_method(request: Request) -> Refusal {
    Refusal::new(
        Code::MethodNotAllowed,
        format!(
            "{} does not take {}",
            request.uri().path(),
            request.method()
        ),
    )
}

async fn time_out(State(service): State<Service>, request: Request, next: Next) -> Response {
    let limit = Duration::from_secs(service.config().limits.request_seconds);
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(
            Code::Timeout,
            format!("no answer within {} seconds", limit.as_secs()),
        )
        .into_response(),
    }
}

/// The query of a plain list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    cursor: Option<String>,
    limit: Option<u32>,
}

/// Which machine is meant.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct VmQuery {
    vm_name: Option<String>,
    vm_id: Option<String>,
}

impl From<VmQuery> for PointQuery {
    fn from(q: VmQuery) -> Self {
        Self {
            vm_name: q.vm_name,
            vm_id: q.vm_id,
        }
    }
}

/// Rows per page: 50 unless asked, at most 500.
fn page_limit(limit: Option<u32>) -> Result<u32, Refusal> {
    match limit {
        None => Ok(50),
        Some(n @ 1..=500) => Ok(n),
        Some(n) => Err(Refusal::new(
            Code::BadRequest,
            format!("limit is {n}; it must be 1 to 500"),
        )),
    }
}

#[cfg(test)]
mod tests;
