//! The data plane: authenticates, admits, forwards and meters the calls of clients.

pub mod headers;
pub mod query_string;
pub mod request_context;
pub mod upstreams;
pub mod catalog;
pub mod limit_json;
pub mod refusal;
pub mod response;
pub mod server;
pub mod stages;
pub mod response_body;
pub mod local_endpoints;
pub mod pipeline;
