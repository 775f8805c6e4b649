use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::answer::Answer;
use super::api::Kind;
use super::error::ApiError;
use super::json::json_response;
use super::service::Service;

/// The chat page, which asks nobody but the server it comes from.
const PAGE: &str = include_str!("page.html");
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The longest that a request may take to come in.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the addresses of the server.
pub fn router(service: Arc<Service>) -> Router {
    let api = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .layer(from_fn_with_state(service.clone(), check_key));
    Router::new()
        .merge(api)
        .route("/", get(page))
        .route("/health", get(health))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(service.clone(), check_host))
        .with_state(service)
}

async fn check_host(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    service.guard().check_host(request.headers())?;
    Ok(next.run(request).await)
}

async fn check_key(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    service.guard().check_key(request.headers())?;
    Ok(next.run(request).await)
}

async fn page() -> impl IntoResponse {
    let policy = (header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
    ([policy], Html(PAGE))
}

async fn health(State(service): State<Arc<Service>>) -> Response {
    json_response(&json!({ "status": "ok", "requests": service.requests() }))
}

async fn models(State(service): State<Arc<Service>>) -> Response {
    let models: Vec<Value> = service
        .models()
        .iter()
        .map(|name| described(name))
        .collect();
    json_response(&json!({ "object": "list", "data": models }))
}

async fn model(
    State(service): State<Arc<Service>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Ok(Path(name)) = name else {
        let message = "the name of the model is not UTF-8";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    };
    service.model(&name)?;
    Ok(json_response(&described(&name)))
}

fn described(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": 0, "owned_by": "finetune" })
}

async fn chat(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    answer(Kind::Chat, service, &headers, body).await
}

async fn completion(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    answer(Kind::Completion, service, &headers, body).await
}

async fn answer(
    kind: Kind,
    service: Arc<Service>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + service.limits().timeout;
    let body = read(headers, body, service.limits().max_body).await?;
    let ticket = service.ticket()?;
    let reader = service.clone();
    // A long prompt takes a while to become tokens, and the connections of others do not wait for that.
    let ask = tokio::task::spawn_blocking(move || kind.read(&reader, &body)).await;
    let ask = ask.map_err(|_| {
        let message = "the server failed on this request";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })??;
    let answer = Answer::new(&ask, &service.models()[ask.model]);
    let events = service.start(&ask, ticket, deadline)?;
    answer.respond(events).await
}

/// Reads a request of JSON.
async fn read(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, ApiError> {
    let content = headers.get(header::CONTENT_TYPE);
    let content = content.and_then(|content| content.to_str().ok());
    let content = content.and_then(|content| content.split(';').next());
    if !content.is_some_and(|content| content.trim().eq_ignore_ascii_case("application/json")) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the request must be JSON and say so: `Content-Type: application/json`",
        ));
    }
    let too_large = || {
        let message = format!(
            "the request has more than {most} bytes, the most that this server takes (--max-body)"
        );
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    match timeout(BODY_TIMEOUT, to_bytes(body, most)).await {
        Ok(Ok(body)) => Ok(body),
        // It ends before its end, and nobody is there to read this, or it is too long.
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "the request did not come within {} s",
                BODY_TIMEOUT.as_secs()
            ),
        )),
    }
}

async fn not_found(request: Request) -> ApiError {
    let message = format!(
        "there is nothing at {}; this server has /v1/chat/completions, /v1/completions, /v1/models, /health and a page at /",
        request.uri().path()
    );
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(request: Request) -> ApiError {
    let message = format!("{} is not for {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
