//! `/health`, `/repositories`, `/exports`.

use axum::extract::State;
use axum::{Extension, Json};

use crate::auth::Caller;
use crate::error::{Answer, Segment};
use crate::service::Service;
use crate::types::{Backup, ExportList, Health, Quarantine, Reload, RepositoryList};

/// Open to everybody; says nothing that is a secret.
pub(super) async fn health(State(service): State<Service>) -> Json<Health> {
    Json(service.health().await)
}

pub(super) async fn repositories(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<RepositoryList>> {
    Ok(Json(service.list_repositories(&caller).await?))
}

pub(super) async fn quarantine(
    State(service): State<Service>,
    Segment(name): Segment<String>,
) -> Answer<Json<Quarantine>> {
    Ok(Json(service.list_quarantine(&name).await?))
}

pub(super) async fn adopt(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment((name, id)): Segment<(String, String)>,
) -> Answer<Json<Backup>> {
    Ok(Json(service.adopt(&caller, &name, &id).await?))
}

pub(super) async fn exports(State(service): State<Service>) -> Json<ExportList> {
    Json(service.list_exports())
}

pub(super) async fn reload_exports(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<Reload>> {
    Ok(Json(service.reload_exports(&caller).await?))
}
