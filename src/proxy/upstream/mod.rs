//! Upstreams: connections, circuit breakers, cooldowns and attempts.

pub mod breaker;
pub mod cooldown;
pub mod attempts;
pub mod provider_endpoint;
pub mod upstream_body;
pub mod connect;
pub mod pool;
