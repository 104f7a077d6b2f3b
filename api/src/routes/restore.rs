//! `/restore`.

use axum::extract::State;
use axum::{Extension, Json};

use super::StatusCode;
use crate::auth::Caller;
use crate::error::{Answer, Body, Segment};
use crate::service::Service;
use crate::types::{Job, RestoreDisk, RestoreExport, RestoreExportList, RestoreExportRequest};

pub(super) async fn disk(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<RestoreDisk>,
) -> Answer<(StatusCode, Json<Job>)> {
    let job = service.restore_disk(&caller, request).await?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

pub(super) async fn export(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<RestoreExportRequest>,
) -> Answer<(StatusCode, Json<RestoreExport>)> {
    let export = service.restore_export(&caller, request).await?;
    Ok((StatusCode::CREATED, Json(export)))
}

pub(super) async fn exports(State(service): State<Service>) -> Json<RestoreExportList> {
    Json(service.restore_exports())
}

pub(super) async fn end_export(
    State(service): State<Service>,
    Segment(id): Segment<String>,
) -> Answer<Json<RestoreExport>> {
    Ok(Json(service.end_restore_export(&id)?))
}
