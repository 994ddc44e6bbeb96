//! Reload: models, prices and upstreams are read again while calls go on.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock;
use crate::config::check::{self, Settings};
use crate::domain::tariff::Tariff;
use crate::organization::platform::{Enforce, Prepared, Reload, Reloaded, UpstreamState};
use crate::proxy::breaker::Circuit;
use crate::proxy::catalog::Catalog;
use crate::proxy::upstream::Upstream;
use crate::proxy::worker::Shared;
use crate::settings::upstream::UpstreamSettings;

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

/// Reads `file` again, so that its catalog can be put in force, at once and whole; or says every
/// fault of it. A call goes on by the catalog that it was admitted under. All else that the file
/// says takes effect at the next start.
pub fn of_file(file: Option<PathBuf>, shared: Arc<Shared>, currency: String) -> Reload {
    let (known, shown) = (Arc::clone(&shared), Arc::clone(&shared));
    let models = move || shown.catalog.load().listed();
    let read = move || {
        let file = file.as_deref().ok_or("there is no file to read again; start with --config")?;
        let settings = check::load(Some(file)).map_err(|report| report.to_string())?;
        if settings.currency != currency {
            // Prices in one currency must not be taken from wallets in another.
            return Err("another currency takes effect at a start only; restart".to_owned());
        }
        let tariffs = tariffs(&settings);
        let reloaded =
            Reloaded { models: settings.models.len(), upstreams: settings.upstreams.len() };
        let (shared, file) = (Arc::clone(&shared), file.to_owned());
        let enforce = move || {
            let next = catalog(&settings, &shared.catalog.load());
            shared.catalog.store(Arc::new(next));
            tracing::info!(?reloaded, file = %file.display(), "the catalog was read again");
        };
        Ok(Prepared { reloaded, tariffs, enforce: Enforce(Box::new(enforce)) })
    };
    let upstreams = move || {
        let catalog = known.catalog.load();
        catalog.upstreams().iter().map(|upstream| state(upstream)).collect()
    };
    Reload::new(read, models, upstreams)
}

fn state(upstream: &Upstream) -> UpstreamState {
    let (circuit, window) = upstream.breaker.stands(clock::tick());
    let settings = &upstream.settings;
    UpstreamState {
        name: settings.name.to_string(),
        dialects: settings.dialects.iter().map(|dialect| dialect.name()).collect(),
        base_url: settings.address.to_string(),
        circuit: match circuit {
            Circuit::Closed => "Closed",
            Circuit::HalfOpen => "HalfOpen",
            Circuit::Open => "Open",
        },
        window,
        last_error: upstream.tries.failed_by(),
        last_ok_at: upstream.tries.answered_at(),
    }
}
