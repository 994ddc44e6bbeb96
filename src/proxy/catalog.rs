//! A snapshot of the catalog: models by name, and the upstreams that serve them.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState as FastHash;

use crate::dialect::endpoint::Dialect;
use crate::domain::catalog::{Model, Target};
use crate::proxy::upstreams::upstream::Upstream;

/// Models and upstreams. Replaced as a whole when the configuration changes.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Keyed by name and by alias.
    models: HashMap<Arc<str>, Arc<Model>, FastHash>,
    /// Serves unlisted names, if the deployment accepts them (`meteor demo --upstream`).
    fallback: Option<Arc<Model>>,
    upstreams: Vec<Arc<Upstream>>,
}

impl Catalog {
    /// Targets of the models are indexes into `upstreams`.
    pub fn new(
        models: impl IntoIterator<Item = Model>,
        fallback: Option<Model>,
        upstreams: Vec<Arc<Upstream>>,
    ) -> Self {
        let mut by_name = HashMap::default();
        for model in models.into_iter().map(Arc::new) {
            for name in [&model.name].into_iter().chain(&model.aliases) {
                by_name.insert(Arc::clone(name), Arc::clone(&model));
            }
        }
        Self { models: by_name, fallback: fallback.map(Arc::new), upstreams }
    }

    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// Returns the model with this name or alias.
    pub fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.models.get(name).cloned().or_else(|| {
            let fallback = self.fallback.as_ref()?;
            Some(Arc::new(Model { name: Arc::from(name), ..Model::clone(fallback) }))
        })
    }

    /// Returns all listed models, sorted by name.
    pub fn listed_models(&self) -> Vec<Arc<Model>> {
        let primary = self.models.iter().filter(|(name, model)| **name == model.name);
        let mut models: Vec<_> = primary.map(|(_, model)| Arc::clone(model)).collect();
        models.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        models
    }

    /// Returns the listed models that are served in `dialect`, sorted by name.
    pub fn models_for(&self, dialect: Dialect) -> Vec<&Model> {
        let has_target = |model: &&Model| self.targets(model, dialect).next().is_some();
        let primary = self.models.iter().filter(|(name, model)| **name == model.name);
        let mut models: Vec<&Model> = primary.map(|(_, model)| &**model).collect();
        models.retain(has_target);
        models.sort_unstable_by_key(|model| &model.name);
        models
    }

    /// Returns the targets that serve `model` in `dialect`, in order of preference.
    pub fn targets<'a>(
        &'a self,
        model: &'a Model,
        dialect: Dialect,
    ) -> impl Iterator<Item = (&'a Target, &'a Arc<Upstream>)> {
        let upstream = |target: &'a Target| Some((target, self.upstreams.get(target.upstream)?));
        let supports = move |(_, upstream): &(_, &Arc<Upstream>)| upstream.supports(dialect);
        model.targets.iter().filter_map(upstream).filter(supports)
    }
}
