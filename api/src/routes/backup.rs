//! `/backup`.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;

use super::arriving::arriving;
use super::{StatusCode, VmQuery, page_limit};
use crate::auth::Caller;
use crate::error::{Answer, Body, MaybeBody, Params, Segment};
use crate::service::{ListQuery, PointQuery, Service};
use crate::types::{Backup, BackupList, Complete, Deletion, Job, StartBackup, VmChains};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupsQuery {
    vm_name: Option<String>,
    vm_id: Option<String>,
    status: Option<String>,
    repository: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    #[serde(default)]
    wait: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DeleteQuery {
    with_dependents: bool,
    dry_run: bool,
}

/// 202: the job runs, and movers may write.
pub(super) async fn start(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Body(start): Body<StartBackup>,
) -> Answer<(StatusCode, Json<Backup>)> {
    let started = service.start_backup(&caller, start).await?;
    Ok((StatusCode::ACCEPTED, Json(started)))
}

pub(super) async fn list(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Params(q): Params<BackupsQuery>,
) -> Answer<Json<BackupList>> {
    let query = ListQuery {
        vm: PointQuery {
            vm_name: q.vm_name,
            vm_id: q.vm_id,
        },
        status: q.status,
        repository: q.repository,
        cursor: q.cursor,
        limit: page_limit(q.limit)?,
    };
    Ok(Json(service.list_backups(&caller, &query).await?))
}

pub(super) async fn chain(
    State(service): State<Service>,
    Params(vm): Params<VmQuery>,
) -> Answer<Json<VmChains>> {
    Ok(Json(service.show_chains(&vm.into()).await?))
}

pub(super) async fn show(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<String>,
    Params(vm): Params<VmQuery>,
) -> Answer<Json<Backup>> {
    Ok(Json(service.show_backup(&caller, &id, &vm.into()).await?))
}

/// 200 once sealed, 202 until then.
pub(super) async fn complete(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<String>,
    Params(q): Params<WaitQuery>,
    MaybeBody(body): MaybeBody<Complete>,
) -> Answer<(StatusCode, Json<Backup>)> {
    let wait = Duration::from_secs(q.wait);
    let (backup, sealed) = service.complete_backup(&caller, &id, body, wait).await?;
    let status = if sealed {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(backup)))
}

pub(super) async fn cancel(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<String>,
) -> Answer<Json<Backup>> {
    Ok(Json(service.cancel_backup(&caller, &id).await?))
}

pub(super) async fn verify(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<String>,
) -> Answer<(StatusCode, Json<Job>)> {
    let job = service.verify_backup(&caller, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

/// The list is parsed while it arrives, and counts once all of it has.
pub(super) async fn put_changes(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment((id, disk)): Segment<(String, u32)>,
    body: axum::body::Body,
) -> Answer<Json<Backup>> {
    let (feed, json) = arriving();
    let most = service.config().limits.changes_bytes;
    let (passed, changed) = tokio::join!(
        feed.pass_on(body, most),
        service.put_changes(&caller, &id, disk, json)
    );
    passed?;
    Ok(Json(changed?))
}

pub(super) async fn delete(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<String>,
    Params(q): Params<DeleteQuery>,
) -> Answer<Json<Deletion>> {
    let deletion = service
        .delete_backup(&caller, &id, q.with_dependents, q.dry_run)
        .await?;
    Ok(Json(deletion))
}
