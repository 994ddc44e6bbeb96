//! A fixed catalog for tests: one model, served by one of two upstreams.

use std::sync::Arc;

use crate::domain::catalog::{Model, Target, TargetRank};
use crate::domain::price::PriceTable;
use crate::domain::status::CircuitState;
use crate::domain::tariff::{PriceSchedule, Tariff};
use crate::domain::usage::Unit;
use crate::organization::services::{
    CatalogInput, CatalogSource, CommitHook, Reloaded, StagedCatalog, UpstreamState,
};

/// Returns a catalog that never changes and has no file.
pub fn fixed_catalog() -> CatalogSource {
    CatalogSource {
        models: Box::new(|| models().into_iter().map(Arc::new).collect()),
        configured_models: Box::new(models),
        upstreams: Box::new(|| vec![upstream("upstream-a"), upstream("upstream-b")]),
        prepare: Box::new(|from, _| match from {
            CatalogInput::File => Err("there is no file".to_owned()),
            CatalogInput::Current => Ok(StagedCatalog {
                reloaded: Reloaded { models: 1, upstreams: 2 },
                tariffs: Vec::new(),
                activate: CommitHook(Box::new(|| ())),
            }),
        }),
    }
}

fn models() -> Vec<Model> {
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

fn upstream(name: &str) -> UpstreamState {
    UpstreamState {
        name: name.to_owned(),
        dialects: Vec::new(),
        base_url: String::new(),
        circuit: CircuitState::Closed,
        attempts: 0,
        failures: 0,
        last_error: None,
        last_ok_at: None,
    }
}
