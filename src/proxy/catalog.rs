//! The catalog in use: models by name, and the upstreams that serve them.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState as FastHash;

use crate::domain::catalog::Model;
use crate::proxy::upstream::Upstream;

/// Models and upstreams of one moment.
#[derive(Debug, Default)]
pub struct Catalog {
    models: HashMap<Arc<str>, Arc<Model>, FastHash>,
    /// Serves what is not listed, where unknown names are welcome (the demo with `--upstream`).
    fallback: Option<Arc<Model>>,
    upstreams: Vec<Arc<Upstream>>,
}

impl Catalog {
    /// A catalog of those models; their targets are places in `upstreams`.
    pub fn new(
        models: impl IntoIterator<Item = Model>,
        fallback: Option<Model>,
        upstreams: Vec<Arc<Upstream>>,
    ) -> Self {
        let models = models.into_iter().map(|model| (Arc::clone(&model.name), Arc::new(model)));
        Self { models: models.collect(), fallback: fallback.map(Arc::new), upstreams }
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.models.get(name).cloned().or_else(|| {
            let fallback = self.fallback.as_ref()?;
            Some(Arc::new(Model { name: Arc::from(name), ..Model::clone(fallback) }))
        })
    }

    /// All listed names, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.models.keys().map(AsRef::as_ref).collect();
        names.sort_unstable();
        names
    }

    /// The upstream at that place.
    pub fn upstream(&self, place: usize) -> Option<&Arc<Upstream>> {
        self.upstreams.get(place)
    }
}
