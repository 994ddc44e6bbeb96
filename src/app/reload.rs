//! Reload: models, prices and upstreams are read again while calls go on.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock;
use crate::config::check::{self, Settings};
use crate::config::pricing::fill_from_ceiling;
use crate::domain::catalog::Model;
use crate::domain::price_override;
use crate::domain::price_override::PriceOverride;
use crate::domain::tariff::Tariff;
use crate::organization::services::{
    CatalogSource, CommitHook, Reloaded, StagedCatalog, UpstreamState,
};
use crate::proxy::catalog::Catalog;
use crate::proxy::server::worker::SharedState;
use crate::proxy::upstream::breaker::CircuitState;
use crate::proxy::upstream::provider_endpoint::Upstream;
use crate::settings::upstream::UpstreamSettings;
use crate::store::price_lists::version;

/// The catalog of a configuration. An upstream that stays as it was keeps its connections.
pub fn catalog(settings: &Settings, before: &Catalog) -> Catalog {
    let upstream = |settings: &UpstreamSettings| {
        let same = before.upstreams().iter().find(|known| known.settings == *settings);
        same.map_or_else(|| Arc::new(Upstream::new(settings.clone())), Arc::clone)
    };
    let upstreams = settings.upstreams.iter().map(upstream).collect();
    Catalog::new(settings.models.iter().cloned(), settings.fallback.clone(), upstreams)
}

/// All prices of a configuration.
pub fn tariffs(settings: &Settings) -> Vec<Arc<Tariff>> {
    let models = settings.models.iter().chain(&settings.fallback);
    let targets = models.flat_map(|model| &model.targets);
    let mut tariffs: Vec<_> =
        targets.flat_map(|target| target.schedule.tariffs()).cloned().collect();
    tariffs.sort_unstable_by(|one, other| one.version().cmp(other.version()));
    tariffs.dedup_by(|one, other| one.version() == other.version());
    tariffs
}

/// A configuration under the prices that the admin API has laid over its own.
pub fn apply_overrides(settings: &Settings, laid: &[PriceOverride]) -> Settings {
    let mut under = settings.clone();
    let mut laid = laid.to_vec();
    if let Some(ceiling) = &settings.ceiling {
        for row in laid.iter_mut().flat_map(|price| &mut price.rows) {
            row.prices = fill_from_ceiling(&row.prices, ceiling);
        }
    }
    for model in under.models.iter_mut().chain(&mut under.fallback) {
        for target in &mut model.targets {
            let place = &settings.upstreams[target.upstream].name;
            let here: Vec<_> =
                laid.iter().filter(|price| price.applies_to(&model.name, place)).collect();
            target.schedule =
                price_override::apply(&target.schedule, &here, |rows| version("api", rows));
        }
    }
    under
}

/// A file whose catalog can be put in force, at once and whole. A call goes on by the catalog that
/// it was admitted under. All else that the file says takes effect at the next start.
#[derive(Debug)]
pub struct FileCatalog {
    /// Where it is, if it can be read again.
    pub file: Option<PathBuf>,
    /// What it said when it was last read without faults.
    pub loaded: Arc<ArcSwap<Settings>>,
    /// Where the catalog is in force.
    pub shared: Arc<SharedState>,
}

impl FileCatalog {
    fn prepare(&self, settings: Arc<Settings>, laid: &[PriceOverride]) -> StagedCatalog {
        let under = apply_overrides(&settings, laid);
        let tariffs = tariffs(&under);
        let reloaded = Reloaded { models: under.models.len(), upstreams: under.upstreams.len() };
        let (shared, said) = (Arc::clone(&self.shared), Arc::clone(&self.loaded));
        let enforce = move || {
            let next = catalog(&under, &shared.catalog.load());
            shared.catalog.store(Arc::new(next));
            said.store(settings);
        };
        StagedCatalog { reloaded, tariffs, activate: CommitHook(Box::new(enforce)) }
    }
}

impl CatalogSource for FileCatalog {
    fn models(&self) -> Vec<Arc<Model>> {
        self.shared.catalog.load().listed_models()
    }

    fn configured_models(&self) -> Vec<Model> {
        let mut models = self.loaded.load().models.clone();
        models.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        models
    }

    fn upstreams(&self) -> Vec<UpstreamState> {
        let catalog = self.shared.catalog.load();
        catalog.upstreams().iter().map(|upstream| upstream_state(upstream)).collect()
    }

    fn stage_file(&self, laid: &[PriceOverride]) -> Result<StagedCatalog, String> {
        let file = self.file.as_deref();
        let file = file.ok_or("there is no file to read again; start with --config")?.to_owned();
        let settings = check::load(Some(&file)).map_err(|report| report.to_string())?;
        if settings.currency != self.loaded.load().currency {
            // Prices in one currency must not be taken from wallets in another.
            return Err("another currency takes effect at a start only; restart".to_owned());
        }
        let prepared = self.prepare(Arc::new(settings), laid);
        let (reloaded, CommitHook(enforce)) = (prepared.reloaded, prepared.activate);
        let enforce = move || {
            enforce();
            tracing::info!(?reloaded, file = %file.display(), "the catalog was read again");
        };
        Ok(StagedCatalog { activate: CommitHook(Box::new(enforce)), ..prepared })
    }

    fn with_overrides(&self, laid: &[PriceOverride]) -> StagedCatalog {
        self.prepare(self.loaded.load_full(), laid)
    }
}

fn upstream_state(upstream: &Upstream) -> UpstreamState {
    let (circuit, window) = upstream.breaker.snapshot(clock::monotonic_now());
    let settings = &upstream.settings;
    UpstreamState {
        name: settings.name.to_string(),
        dialects: settings.dialects.iter().map(|dialect| dialect.name()).collect(),
        base_url: settings.address.to_string(),
        circuit: match circuit {
            CircuitState::Closed => "Closed",
            CircuitState::HalfOpen => "HalfOpen",
            CircuitState::Open => "Open",
        },
        window,
        last_error: upstream.attempts.last_failure(),
        last_ok_at: upstream.attempts.answered_at(),
    }
}
