/// `POST /v1/chat/completions`.
mod chat;
/// `POST /v1/completions`.
mod completion;
/// The parameters of a request by their names.
mod fields;
/// What both have.
mod shared;

pub use shared::{Ask, Kind};

use super::error::ApiError;
use super::service::Service;

impl Kind {
    /// Reads a request for it.
    ///
    /// # Errors
    /// What cannot be served, by the name of the parameter.
    pub fn read(self, service: &Service, body: &[u8]) -> Result<Ask, ApiError> {
        match self {
            Self::Chat => chat::read(service, body),
            Self::Completion => completion::read(service, body),
        }
    }
}
