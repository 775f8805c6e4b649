use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::job::Failure;
use super::json::json_response;
use crate::report::words;

/// An error with its status, as OpenAI's clients read it.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    /// The parameter that is to blame.
    param: Option<String>,
    /// A name for programs.
    code: Option<&'static str>,
}

/// Clients that are told to come back do so after as many seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

impl ApiError {
    /// Returns an error of a status.
    pub fn new(status: StatusCode, message: impl Display) -> Self {
        Self {
            status,
            message: words(&message.to_string()),
            param: None,
            code: None,
        }
    }

    /// Returns the error of a parameter with a value that cannot be.
    pub fn of(param: &str, message: impl Display) -> Self {
        Self {
            param: Some(words(param)),
            ..Self::new(StatusCode::BAD_REQUEST, format!("`{param}` {message}"))
        }
    }

    /// Returns it with a name for programs.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Returns the error of a server that does not take the request up.
    pub fn stopping() -> Self {
        let message = "the server is stopping; ask again when it is back";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// Returns the error as JSON.
    pub fn json(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Timeout => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the request took longer than the server allows (--timeout); ask for fewer tokens, or when it has less to do",
            )
            .with_code("timeout"),
            Failure::Model(message) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(&self.json());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            StatusCode::UNAUTHORIZED => {
                let bearer = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, bearer);
            }
            // What is left of the body is not read, so the connection cannot go on.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}
