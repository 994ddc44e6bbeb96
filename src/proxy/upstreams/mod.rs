//! Upstreams: connections, circuit breakers, cooldowns, metrics and the choice between targets.

pub mod breaker;
pub mod cooldown;
pub mod attempt_metrics;
pub mod upstream;
pub mod request_body;
pub mod connect;
pub mod pool;
pub mod route_target;
pub mod failover;
