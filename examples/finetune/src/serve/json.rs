use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// Returns a response of JSON.
pub fn json_response(value: &Value) -> Response {
    let content = [(header::CONTENT_TYPE, "application/json")];
    (content, value.to_string()).into_response()
}
