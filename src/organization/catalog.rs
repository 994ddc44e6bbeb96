//! The catalog: models, their prices and where they are served, as the file says.

use std::sync::Arc;

use serde_json::Value;

use crate::clock;
use crate::domain::catalog::Model;
use crate::domain::overlay::Laid;
use crate::organization::access::{Actor, Principal};
use crate::organization::denied::Denied;
use crate::organization::platform::{Enforce, Platform, Prepared, Reload, Reloaded, UpstreamState};
use crate::organization::rights::Right;
use crate::organization::work::{Change, Origin, Work};
use crate::store::{price_lists, prices};

/// Reads the file again and puts it in force. Open calls go on by what they were admitted under.
pub async fn reload(work: &mut Work, principal: &Principal) -> Result<Reloaded, Denied> {
    principal.may(Right::ChangePlatform)?;
    read_again(work, &principal.actor()).await
}

/// The same, asked for by whoever may send signals to the process.
pub async fn reload_by_signal(platform: &Arc<Platform>) -> Result<Reloaded, Denied> {
    let mut work = Work::begin(platform, Origin::default()).await?;
    let actor = Actor { kind: "System", id: String::new(), name: "SIGHUP".to_owned() };
    let reloaded = read_again(&mut work, &actor).await?;
    work.commit().await?;
    Ok(reloaded)
}

/// A model that can be called, and what it costs now.
#[derive(Debug)]
pub struct Offer {
    /// The model.
    pub model: Arc<Model>,
    /// Each version of prices that a call can come to, and its rows; first choice first.
    pub prices: Vec<(Arc<str>, Value)>,
}

/// All that can be called, in the order of its names. Where it is served is not told.
pub fn offers(platform: &Platform, principal: &Principal) -> Result<Vec<Offer>, Denied> {
    principal.may(Right::ViewAccount)?;
    let now = clock::now();
    let offer = |model: Arc<Model>| {
        let mut prices: Vec<(Arc<str>, Value)> = Vec::new();
        for target in &model.targets {
            let tariff = target.schedule.at(now);
            if prices.iter().all(|(known, _)| known != tariff.version()) {
                prices.push((Arc::clone(tariff.version()), price_lists::rows(tariff)));
            }
        }
        Offer { model, prices }
    };
    Ok(platform.reload.models().into_iter().map(offer).collect())
}

/// The prices that a record names by their version: what its cost was computed with.
pub async fn price_list(
    platform: &Platform,
    principal: &Principal,
    version: &str,
) -> Result<Value, Denied> {
    principal.may(Right::ViewAccount)?;
    price_lists::find(&platform.database, version).await?.ok_or(Denied::NotFound)
}

/// The upstreams in use on this node, and how they have been lately.
pub fn upstreams(platform: &Platform, principal: &Principal) -> Result<Vec<UpstreamState>, Denied> {
    principal.may(Right::ViewPlatform)?;
    Ok(platform.reload.upstreams())
}

async fn read_again(work: &mut Work, actor: &Actor) -> Result<Reloaded, Denied> {
    let read = |reload: &dyn Reload, laid: &[Laid]| {
        reload.read(laid).map_err(|fault| Denied::conflict("invalid_configuration", fault))
    };
    let reloaded = follow(work, read).await?;
    let change = Change {
        organization: None,
        action: "catalog.reload".into(),
        target: ("catalog", String::new(), String::new()),
        before: None,
        after: Some(serde_json::json!({
            "models": reloaded.models,
            "upstreams": reloaded.upstreams,
        })),
    };
    work.audit(actor, change).await?;
    Ok(reloaded)
}

/// Has a catalog in force after the commit, under the prices that are laid over it by then. What
/// it costs is kept with the commit, before a record can name it.
pub async fn follow(
    work: &mut Work,
    prepare: impl FnOnce(&dyn Reload, &[Laid]) -> Result<Prepared, Denied>,
) -> Result<Reloaded, Denied> {
    let turn = Arc::clone(&work.platform().cataloging).lock_owned().await;
    let now = work.now();
    let laid = prices::laid(work.connection(), now).await?;
    let Prepared { reloaded, tariffs, enforce } = prepare(&*work.platform().reload, &laid)?;
    let tariffs = tariffs.iter().map(|tariff| &**tariff);
    price_lists::keep(work.connection(), tariffs, now).await?;
    work.enforce(Enforce(Box::new(move || {
        (enforce.0)();
        drop(turn);
    })));
    Ok(reloaded)
}
