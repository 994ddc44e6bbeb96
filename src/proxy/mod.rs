//! The data plane: from a client's bytes to an upstream and back, governed on the way.

pub mod headers;
pub mod query;
pub mod upstream;
pub mod outgoing;
pub mod connect;
pub mod pool;
pub mod catalog;
pub mod arrival;
pub mod refuse;
pub mod shape;
pub mod refusals;
pub mod worker;
pub mod authenticate;
pub mod receive;
pub mod once;
pub mod route;
pub mod admit;
pub mod forward;
pub mod clear;
pub mod relay;
pub mod answer;
pub mod inform;
pub mod exchange;
pub mod listener;
