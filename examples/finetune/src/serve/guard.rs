//! Who may ask.
//!
//! Without a key only programs of this machine reach the server, and among them browsers, which carry what any page says. A page of
//! another origin cannot send JSON without asking first, and is not answered; one whose name was made to point at this machine sends
//! that name along.

use axum::http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq;

use super::error::ApiError;

/// What a request must have.
#[derive(Debug)]
pub struct Guard {
    key: Option<String>,
    /// Whether only names of this machine are taken for the server's.
    loopback: bool,
}

impl Guard {
    /// Returns the guard of a server that has a key or listens to this machine alone.
    pub fn new(key: Option<String>) -> Self {
        Self {
            loopback: key.is_none(),
            key,
        }
    }

    /// Checks the name that the request has for the server.
    ///
    /// # Errors
    /// Status 403 for one that is not this machine's, where that matters.
    pub fn check_host(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let host = headers.get(header::HOST);
        let host = host.map(|host| host.to_str().unwrap_or_default());
        if !self.loopback || host.is_none_or(is_loopback) {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "this server is called localhost; to reach it under another name, give it a key (--api-key)",
        ))
    }

    /// Checks the key of a request.
    ///
    /// # Errors
    /// Status 401 for none or another.
    pub fn check_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(key) = &self.key else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION);
        let given = given.and_then(|given| {
            let (scheme, key) = given.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
        });
        match given {
            // In a time that does not tell where they differ.
            Some(given) if given.trim_ascii().ct_eq(key.as_bytes()).into() => Ok(()),
            Some(_) => Err(unauthorized("the API key is not this server's")),
            None => Err(unauthorized(
                "this server asks for a key; send it as `Authorization: Bearer KEY`",
            )),
        }
    }
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key")
}

/// Returns whether a name, with or without a port, is this machine's for itself.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let is_address = |address: std::net::IpAddr| address.is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn without_a_key_the_server_goes_by_this_machines_names() {
        let guard = Guard::new(None);
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:1", true),
            ("127.9.9.9", true),
            ("[::1]:8080", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("localhost.evil.example", false),
            ("192.168.0.1", false),
            ("", false),
        ] {
            let checked = guard.check_host(&headers(header::HOST, host));
            assert_eq!(checked.is_ok(), expected, "{host}");
            assert!(guard.check_key(&HeaderMap::new()).is_ok());
        }
        assert!(guard.check_host(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_key_is_asked_for() {
        let guard = Guard::new(Some("k3y".into()));
        for (given, expected) in [
            ("Bearer k3y", true),
            ("bearer  k3y ", true),
            ("Bearer k3", false),
            ("Bearer k3yy", false),
            ("Bearer ", false),
            ("k3y", false),
            ("Basic k3y", false),
        ] {
            let checked = guard.check_key(&headers(header::AUTHORIZATION, given));
            assert_eq!(checked.is_ok(), expected, "{given}");
        }
        assert!(guard.check_key(&HeaderMap::new()).is_err());
        let anywhere = headers(header::HOST, "model.example");
        assert!(guard.check_host(&anywhere).is_ok());
    }
}
