//! Reload: replaces models, prices and upstreams while calls continue.

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
    CatalogInput, CatalogSource, CommitHook, Reloaded, StagedCatalog, UpstreamState,
};
use crate::proxy::catalog::Catalog;
use crate::proxy::server::worker::SharedState;
use crate::proxy::upstreams::upstream::Upstream;
use crate::settings::upstream::UpstreamSettings;
use crate::store::price_lists::version;

/// Builds the catalog of a configuration. An unchanged upstream keeps its connections.
pub fn catalog(settings: &Settings, before: &Catalog) -> Catalog {
    let upstream = |settings: &UpstreamSettings| {
        let same = before.upstreams().iter().find(|upstream| upstream.settings == *settings);
        same.map_or_else(|| Arc::new(Upstream::new(settings.clone())), Arc::clone)
    };
    let upstreams = settings.upstreams.iter().map(upstream).collect();
    Catalog::new(settings.models.iter().cloned(), settings.fallback.clone(), upstreams)
}

/// Returns all tariffs of a configuration, sorted by version, without duplicates.
pub fn tariffs(settings: &Settings) -> Vec<Arc<Tariff>> {
    let models = settings.models.iter().chain(&settings.fallback);
    let targets = models.flat_map(|model| &model.targets);
    let mut tariffs: Vec<_> =
        targets.flat_map(|target| target.schedule.tariffs()).cloned().collect();
    tariffs.sort_unstable_by(|one, other| one.version().cmp(other.version()));
    tariffs.dedup_by(|one, other| one.version() == other.version());
    tariffs
}

/// Returns the settings with the price overrides of the admin API applied.
pub fn apply_overrides(settings: &Settings, overrides: &[PriceOverride]) -> Settings {
    let mut effective = settings.clone();
    let mut overrides = overrides.to_vec();
    if let Some(ceiling) = &settings.ceiling {
        for row in overrides.iter_mut().flat_map(|price| &mut price.rows) {
            row.prices = fill_from_ceiling(&row.prices, ceiling);
        }
    }
    for model in effective.models.iter_mut().chain(&mut effective.fallback) {
        for target in &mut model.targets {
            let upstream = &settings.upstreams[target.upstream].name;
            let applicable: Vec<_> =
                overrides.iter().filter(|price| price.applies_to(&model.name, upstream)).collect();
            target.schedule =
                price_override::apply(&target.schedule, &applicable, |rows| version("api", rows));
        }
    }
    effective
}

/// Builds the catalog from a configuration file and swaps it atomically. A call continues with the
/// catalog that it was admitted under. All other settings take effect at the next start.
#[derive(Debug)]
pub struct FileCatalog {
    /// The configuration file, if the gateway was started with one.
    pub file: Option<PathBuf>,
    /// The settings of the last successful load.
    pub loaded: Arc<ArcSwap<Settings>>,
    /// The live catalog.
    pub shared: Arc<SharedState>,
}

impl FileCatalog {
    fn prepare(&self, settings: Arc<Settings>, overrides: &[PriceOverride]) -> StagedCatalog {
        let effective = apply_overrides(&settings, overrides);
        let tariffs = tariffs(&effective);
        let reloaded =
            Reloaded { models: effective.models.len(), upstreams: effective.upstreams.len() };
        let (shared, loaded) = (Arc::clone(&self.shared), Arc::clone(&self.loaded));
        let activate = move || {
            let next = catalog(&effective, &shared.catalog.load());
            shared.catalog.store(Arc::new(next));
            loaded.store(settings);
        };
        StagedCatalog { reloaded, tariffs, activate: CommitHook(Box::new(activate)) }
    }
}

impl FileCatalog {
    /// Returns the functions with which use cases read and replace the catalog.
    pub fn source(self) -> CatalogSource {
        let catalog = Arc::new(self);
        let (models, configured) = (Arc::clone(&catalog), Arc::clone(&catalog));
        let upstreams = Arc::clone(&catalog);
        CatalogSource {
            models: Box::new(move || models.models()),
            configured_models: Box::new(move || configured.configured_models()),
            upstreams: Box::new(move || upstreams.upstreams()),
            prepare: Box::new(move |from, overrides| match from {
                CatalogInput::File => catalog.stage_file(overrides),
                CatalogInput::Current => Ok(catalog.with_overrides(overrides)),
            }),
        }
    }

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

    fn stage_file(&self, overrides: &[PriceOverride]) -> Result<StagedCatalog, String> {
        let file = self.file.as_deref();
        let file = file
            .ok_or("no configuration file to reload; start the gateway with --config")?
            .to_owned();
        let settings = check::load(Some(&file)).map_err(|report| report.to_string())?;
        if settings.currency != self.loaded.load().currency {
            // Prices in one currency must not be charged to wallets in another.
            return Err("the currency cannot change at a reload; restart the gateway".to_owned());
        }
        let staged = self.prepare(Arc::new(settings), overrides);
        let (reloaded, CommitHook(activate)) = (staged.reloaded, staged.activate);
        let activate = move || {
            activate();
            tracing::info!(?reloaded, file = %file.display(), "catalog reloaded");
        };
        Ok(StagedCatalog { activate: CommitHook(Box::new(activate)), ..staged })
    }

    fn with_overrides(&self, overrides: &[PriceOverride]) -> StagedCatalog {
        self.prepare(self.loaded.load_full(), overrides)
    }
}

fn upstream_state(upstream: &Upstream) -> UpstreamState {
    let (circuit, (attempts, failures)) = upstream.breaker.snapshot(clock::monotonic_now());
    let settings = &upstream.settings;
    UpstreamState {
        name: settings.name.to_string(),
        dialects: settings.dialects.iter().map(|dialect| dialect.name()).collect(),
        base_url: settings.address.to_string(),
        circuit,
        attempts,
        failures,
        last_error: upstream.attempts.last_failure(),
        last_ok_at: upstream.attempts.answered_at(),
    }
}
