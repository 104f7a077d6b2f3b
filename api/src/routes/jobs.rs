//! `/jobs`.

use axum::extract::State;
use axum::{Extension, Json};

use super::{PageQuery, page_limit};
use crate::auth::Caller;
use crate::error::{Answer, Params, Segment};
use crate::service::Service;
use crate::types::{Job, JobList};

pub(super) async fn list(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Params(page): Params<PageQuery>,
) -> Answer<Json<JobList>> {
    let limit = page_limit(page.limit)?;
    let jobs = service.list_jobs(&caller, page.cursor.as_deref(), limit);
    Ok(Json(jobs.await?))
}

pub(super) async fn show(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<String>,
) -> Answer<Json<Job>> {
    Ok(Json(service.show_job(&caller, &id).await?))
}

pub(super) async fn cancel(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<String>,
) -> Answer<Json<Job>> {
    Ok(Json(service.cancel_job(&caller, &id).await?))
}
