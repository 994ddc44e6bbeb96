//! Upstreams: connections, circuit breakers, cooldowns, metrics and the choice between targets.

pub mod breaker;
pub mod cooldown;
pub mod attempts;
pub mod provider_endpoint;
pub mod upstream_body;
pub mod connect;
pub mod pool;
pub mod route_target;
pub mod failover;
