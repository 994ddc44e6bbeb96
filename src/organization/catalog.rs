//! The catalog: models, their prices and their upstreams, and its reload.

use std::sync::Arc;

use serde_json::Value;

use crate::clock;
use crate::domain::catalog::Model;
use crate::domain::roles::ActorKind;
use crate::organization::access::{Actor, Principal};
use crate::organization::error::UseCaseError;
use crate::organization::rights::Action;
use crate::organization::services::{
    CatalogInput, CommitHook, Reloaded, Services, StagedCatalog, UpstreamState,
};
use crate::organization::unit_of_work::{AuditChange, AuditTarget, Origin, UnitOfWork};
use crate::store::{price_lists, prices};

/// Reloads the catalog from its file. Open calls continue with the catalog of their admission.
pub async fn reload(
    work: &mut UnitOfWork,
    principal: &Principal,
) -> Result<Reloaded, UseCaseError> {
    principal.require(Action::ChangePlatform)?;
    reload_and_audit(work, &principal.actor()).await
}

/// Reloads the catalog because the process received SIGHUP.
pub async fn reload_on_signal(services: &Arc<Services>) -> Result<Reloaded, UseCaseError> {
    let mut work = UnitOfWork::begin(services, Origin::default()).await?;
    let actor = Actor { kind: ActorKind::System, id: String::new(), name: "SIGHUP".to_owned() };
    let reloaded = reload_and_audit(&mut work, &actor).await?;
    work.commit().await?;
    Ok(reloaded)
}

/// A model that can be called, with its current prices.
#[derive(Debug)]
pub struct AvailableModel {
    pub model: Arc<Model>,
    /// The price versions that can apply to a call, each with its rows as JSON, in target order.
    pub prices: Vec<(Arc<str>, Value)>,
}

/// Returns the models that can be called, sorted by name, without their upstreams.
pub fn available_models(
    services: &Services,
    principal: &Principal,
) -> Result<Vec<AvailableModel>, UseCaseError> {
    principal.require(Action::ViewAccount)?;
    let now = clock::wall_now();
    let available = |model: Arc<Model>| {
        let mut prices: Vec<(Arc<str>, Value)> = Vec::new();
        for target in &model.targets {
            let tariff = target.schedule.effective_at(now);
            if prices.iter().all(|(version, _)| version != tariff.version()) {
                prices.push((Arc::clone(tariff.version()), price_lists::rows_json(tariff)));
            }
        }
        AvailableModel { model, prices }
    };
    Ok((services.catalog.models)().into_iter().map(available).collect())
}

/// Returns the price rows of a `priceVersion`, with which the cost of a record was computed.
pub async fn price_list(
    services: &Services,
    principal: &Principal,
    version: &str,
) -> Result<Value, UseCaseError> {
    principal.require(Action::ViewAccount)?;
    price_lists::find(&services.database, version).await?.ok_or(UseCaseError::NotFound)
}

/// Returns the upstreams of this node with their current health.
pub fn upstreams(
    services: &Services,
    principal: &Principal,
) -> Result<Vec<UpstreamState>, UseCaseError> {
    principal.require(Action::ViewPlatform)?;
    Ok((services.catalog.upstreams)())
}

async fn reload_and_audit(work: &mut UnitOfWork, actor: &Actor) -> Result<Reloaded, UseCaseError> {
    let reloaded = activate_after_commit(work, CatalogInput::File).await?;
    let change = AuditChange {
        organization: None,
        action: "catalog.reload".into(),
        target: AuditTarget { kind: "catalog", ..AuditTarget::default() },
        before: None,
        after: Some(serde_json::json!({
            "models": reloaded.models,
            "upstreams": reloaded.upstreams,
        })),
    };
    work.audit(actor, change).await?;
    Ok(reloaded)
}

/// Prepares a catalog with the current price overrides and activates it after the commit.
///
/// Its price versions are stored in the same transaction, before a record can refer to them. The
/// catalog lock is held until the activation, because each catalog is derived from the one before.
pub async fn activate_after_commit(
    work: &mut UnitOfWork,
    input: CatalogInput,
) -> Result<Reloaded, UseCaseError> {
    let lock = Arc::clone(&work.services().catalog_lock).lock_owned().await;
    let now = work.now();
    let overrides = prices::active_overrides(work.connection(), now).await?;
    let staged = (work.services().catalog.prepare)(input, &overrides);
    let invalid = |message| UseCaseError::conflict("invalid_configuration", message);
    let StagedCatalog { reloaded, tariffs, activate } = staged.map_err(invalid)?;
    let tariffs = tariffs.iter().map(|tariff| &**tariff);
    price_lists::insert_missing(work.connection(), tariffs, now).await?;
    work.add_hook(CommitHook(Box::new(move || {
        (activate.0)();
        drop(lock);
    })));
    Ok(reloaded)
}
