//! A catalog for tests of the admin API: one model, at one of two upstreams.

use std::sync::Arc;

use crate::domain::catalog::{Model, Rank, Target};
use crate::domain::overlay::Laid;
use crate::domain::price::Prices;
use crate::domain::tariff::{Schedule, Tariff};
use crate::domain::usage::Unit;
use crate::organization::platform::{Enforce, Prepared, Reload, Reloaded, UpstreamState};

/// It stays as it is.
#[derive(Debug)]
pub struct Shelf;

impl Reload for Shelf {
    fn models(&self) -> Vec<Arc<Model>> {
        self.filed().into_iter().map(Arc::new).collect()
    }

    fn filed(&self) -> Vec<Model> {
        let prices = Prices::default().with(Unit::InputTokens, 1_000_000_000);
        let prices = prices.and_then(|prices| prices.with(Unit::OutputTokens, 2_000_000_000));
        let tariff = Tariff::flat(prices.expect("in range"), "file-1".into());
        let target = Target {
            upstream: 0,
            upstream_model: None,
            rank: Rank::default(),
            schedule: Schedule::always(tariff),
        };
        vec![Model {
            name: "shelved".into(),
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
        vec![upstream("near"), upstream("far")]
    }

    fn read(&self, _laid: &[Laid]) -> Result<Prepared, String> {
        Err("there is no file".to_owned())
    }

    fn lay(&self, _laid: &[Laid]) -> Prepared {
        let reloaded = Reloaded { models: 1, upstreams: 2 };
        Prepared { reloaded, tariffs: Vec::new(), enforce: Enforce(Box::new(|| ())) }
    }
}
