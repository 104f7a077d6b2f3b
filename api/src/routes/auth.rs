//! The door: a bearer token, or 401.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth;
use crate::error::Refusal;
use crate::service::Service;
use crate::types::Code;

/// Lets a request pass whose token is known, and tells the handler whose it is.
pub(super) async fn require_token(
    State(service): State<Service>,
    mut request: Request,
    next: Next,
) -> Response {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    let Some(token) = token else {
        return Refusal::new(
            Code::Unauthenticated,
            "the request carries no `Authorization: Bearer` token",
        )
        .into_response();
    };
    match auth::authenticate(service.store(), &token).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(fault) => Refusal(fault).into_response(),
    }
}
