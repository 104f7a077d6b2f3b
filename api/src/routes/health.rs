//! `/health`: open to everybody, says nothing that is a secret.

use axum::Json;
use axum::extract::State;

use crate::service::Service;
use crate::types::Health;

pub(super) async fn health(State(service): State<Service>) -> Json<Health> {
    Json(service.health())
}
