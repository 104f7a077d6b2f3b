//! Faults on the wire: problem+json, whatever went wrong and whoever noticed.
//!
//! The framework's own refusals are plain text; [`Body`], [`Params`] and [`Segment`] take their
//! place, so that a client sees one envelope only.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::service::Fault;
use crate::types::{Code, Problem};

/// What a handler answers.
pub type Answer<T> = Result<T, Refusal>;

/// A fault on its way out.
#[derive(Debug)]
pub struct Refusal(pub Fault);

impl Refusal {
    /// A fault with the code's own hint.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Fault::new(code, detail))
    }
}

impl<E: Into<Fault>> From<E> for Refusal {
    fn from(e: E) -> Self {
        Self(e.into())
    }
}

/// The envelope of a fault.
pub fn problem(fault: &Fault) -> Problem {
    let mut p = Problem::new(fault.code, fault.detail.clone());
    if let Some(hint) = &fault.hint {
        p.hint.clone_from(hint);
    }
    p.extra.clone_from(&fault.extra);
    p
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let p = problem(&self.0);
        if p.status >= 500 {
            tracing::warn!(code = %p.code, "{}", p.detail);
        }
        let status = StatusCode::from_u16(p.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&p).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        match self.0.code {
            Code::Unauthenticated => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"sendense\""),
                );
            }
            Code::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => {}
        }
        response
    }
}

/// A JSON body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        match axum::Json::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(e) => Err(body_refusal(&e)),
        }
    }
}

fn body_refusal(e: &JsonRejection) -> Refusal {
    let code = match e {
        JsonRejection::JsonDataError(_) => Code::Invalid,
        JsonRejection::JsonSyntaxError(_) => Code::BadJson,
        JsonRejection::MissingJsonContentType(_) => Code::UnsupportedMedia,
        JsonRejection::BytesRejection(_) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Code::TooLarge
        }
        _ => Code::BadRequest,
    };
    Refusal::new(code, said(&e.body_text()))
}

/// What a refusal of the framework says, without what it says of itself.
fn said(text: &str) -> String {
    const PREFIXES: [&str; 3] = [
        "Failed to deserialize the JSON body into the target type: ",
        "Failed to parse the request body as JSON: ",
        "Failed to deserialize query string: ",
    ];
    let rest = PREFIXES.iter().find_map(|p| text.strip_prefix(p));
    rest.unwrap_or(text).to_owned()
}

/// A JSON body that may be left out: nothing at all is the default.
#[derive(Debug)]
pub struct MaybeBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        let empty = request.headers().get(header::CONTENT_LENGTH).map_or(
            !request.headers().contains_key(header::TRANSFER_ENCODING),
            |v| v.as_bytes() == b"0",
        );
        if empty {
            return Ok(Self(T::default()));
        }
        Body::from_request(request, state)
            .await
            .map(|Body(value)| Self(value))
    }
}

/// The query string.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(e)) => {
                Err(Refusal::new(Code::BadRequest, said(&e.body_text())))
            }
            Err(e) => Err(Refusal::new(Code::BadRequest, e.body_text())),
        }
    }
}

/// The parts of the path.
#[derive(Debug)]
pub struct Segment<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segment<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(e @ PathRejection::FailedToDeserializePathParams(_)) => {
                Err(Refusal::new(Code::BadRequest, e.body_text()))
            }
            Err(e) => Err(Refusal::new(Code::Internal, e.body_text())),
        }
    }
}
