//! Answers over HTTP, as OpenAI's API gives them.
//!
//! A request goes from `server`, which has the connections, through `routes` to one of `api`, where its parameters are read and its
//! prompt is made into tokens. It becomes one `job` for each prompt, which `engine` takes up: one thread that has the models and writes
//! all answers side by side. What it tells of a job goes back through a channel, and `answer` makes JSON or events of it.

/// What the answers to a request look like.
mod answer;
/// What a request says, for each of the addresses that take one.
mod api;
/// The thread that has the models.
mod engine;
/// Errors as OpenAI's clients read them.
mod error;
/// Who may ask.
mod guard;
/// What is asked of the engine.
mod job;
/// Responses of JSON.
mod json;
/// Addresses and what they answer.
mod routes;
/// The connections.
mod server;
/// What all requests share.
mod service;

pub use engine::Engine;
pub use routes::router;
pub use server::Server;
pub use service::Service;
