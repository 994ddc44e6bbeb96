//! Reload: models, prices and upstreams are read again while calls go on.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::check::{self, Settings};
use crate::organization::platform::{Reload, Reloaded};
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

/// Reads `file` again and puts its catalog in force, at once and whole, or says every fault of it
/// and changes nothing. A call goes on by the catalog that it was admitted under. All else that
/// the file says takes effect at the next start.
pub fn of_file(file: Option<PathBuf>, shared: Arc<Shared>, currency: String) -> Reload {
    // One at a time: the later file stays.
    let turn = Mutex::new(());
    Reload::new(move || {
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let file = file.as_deref().ok_or("there is no file to read again; start with --config")?;
        let settings = check::load(Some(file)).map_err(|report| report.to_string())?;
        if settings.currency != currency {
            // Prices in one currency must not be taken from wallets in another.
            return Err("another currency takes effect at a start only; restart".to_owned());
        }
        let next = catalog(&settings, &shared.catalog.load());
        shared.catalog.store(Arc::new(next));
        let (models, upstreams) = (settings.models.len(), settings.upstreams.len());
        tracing::info!(models, upstreams, file = %file.display(), "the catalog was read again");
        Ok(Reloaded { models, upstreams })
    })
}
