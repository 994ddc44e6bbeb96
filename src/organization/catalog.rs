//! The catalog: models, their prices and where they are served, as the file says.

use crate::organization::access::Principal;
use crate::organization::denied::Denied;
use crate::organization::platform::Reloaded;
use crate::organization::rights::Right;
use crate::organization::work::{Change, Work};

/// Reads the file again and puts it in force. Open calls go on by what they were admitted under.
pub async fn reload(work: &mut Work, principal: &Principal) -> Result<Reloaded, Denied> {
    principal.may(Right::ChangePlatform)?;
    let told = work.platform().reload.read();
    let reloaded = told.map_err(|fault| Denied::conflict("invalid_configuration", fault))?;
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
    work.audit(&principal.actor(), change).await?;
    Ok(reloaded)
}
