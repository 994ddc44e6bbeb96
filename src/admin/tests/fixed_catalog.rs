//! A fixed catalog for tests: one model, served by one of two upstreams.

use std::sync::Arc;

use crate::domain::catalog::{Model, Target, TargetRank};
use crate::domain::price::PriceTable;
use crate::domain::price_override::PriceOverride;
use crate::domain::tariff::{PriceSchedule, Tariff};
use crate::domain::usage::Unit;
use crate::organization::services::{
    CatalogSource, CommitHook, Reloaded, StagedCatalog, UpstreamState,
};

#[derive(Debug)]
pub struct FixedCatalog;

impl CatalogSource for FixedCatalog {
    fn models(&self) -> Vec<Arc<Model>> {
        self.configured_models().into_iter().map(Arc::new).collect()
    }

    fn configured_models(&self) -> Vec<Model> {
        let prices = PriceTable::default().with(Unit::InputTokens, 1_000_000_000);
        let prices = prices.and_then(|prices| prices.with(Unit::OutputTokens, 2_000_000_000));
        let tariff = Tariff::flat(prices.expect("in range"), "file-1".into());
        let target = Target {
            upstream: 0,
            upstream_model: None,
            rank: TargetRank::default(),
            schedule: PriceSchedule::always(tariff),
        };
        vec![Model {
            name: "test-model".into(),
            aliases: Vec::new(),
            max_output_tokens: 100,
            output_field: "max_tokens",
            hidden_output: false,
            max_input_tokens: None,
            targets: vec![target],
        }]
    }

    fn upstreams(&self) -> Vec<UpstreamState> {
        let upstream = |name: &str| UpstreamState {
            name: name.to_owned(),
            dialects: Vec::new(),
            base_url: String::new(),
            circuit: "Closed",
            window: (0, 0),
            last_error: None,
            last_ok_at: None,
        };
        vec![upstream("upstream-a"), upstream("upstream-b")]
    }

    fn stage_file(&self, _laid: &[PriceOverride]) -> Result<StagedCatalog, String> {
        Err("there is no file".to_owned())
    }

    fn with_overrides(&self, _laid: &[PriceOverride]) -> StagedCatalog {
        let reloaded = Reloaded { models: 1, upstreams: 2 };
        StagedCatalog { reloaded, tariffs: Vec::new(), activate: CommitHook(Box::new(|| ())) }
    }
}
