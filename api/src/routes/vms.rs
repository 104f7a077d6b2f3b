//! `/vms`.

use axum::extract::State;
use axum::{Extension, Json};

use super::{PageQuery, StatusCode, page_limit};
use crate::auth::Caller;
use crate::error::{Answer, Body, Params, Segment};
use crate::service::Service;
use crate::types::{NewVm, Vm, VmList};

pub(super) async fn add(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewVm>,
) -> Answer<(StatusCode, Json<Vm>)> {
    let vm = service.add_vm(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(vm)))
}

pub(super) async fn list(
    State(service): State<Service>,
    Params(page): Params<PageQuery>,
) -> Answer<Json<VmList>> {
    let limit = page_limit(page.limit)?;
    Ok(Json(service.list_vms(page.cursor.as_deref(), limit).await?))
}

pub(super) async fn show(
    State(service): State<Service>,
    Segment(id): Segment<String>,
) -> Answer<Json<Vm>> {
    Ok(Json(service.show_vm(&id).await?))
}
