//! A candidate upstream of a route, with its model name, rank and prices.

use std::sync::Arc;

use crate::domain::call_pricing::CallPricing;
use crate::domain::catalog::TargetRank;
use crate::proxy::upstreams::upstream::Upstream;

/// One upstream that serves the model of a call.
#[derive(Debug)]
pub struct RouteTarget {
    pub upstream: Arc<Upstream>,
    /// The name of the model at the upstream, if it differs.
    pub upstream_model: Option<Arc<str>>,
    /// Priority and weight.
    pub rank: TargetRank,
    pub pricing: CallPricing,
}

impl RouteTarget {
    /// Returns the name of the model at the upstream; `public_name` unless it differs.
    pub fn model_name<'a>(&'a self, public_name: &'a str) -> &'a str {
        self.upstream_model.as_deref().unwrap_or(public_name)
    }
}
