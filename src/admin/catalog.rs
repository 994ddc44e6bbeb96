//! The catalog: read again from its file.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::operation::{Doc, Operations};
use crate::organization::catalog;
use crate::organization::platform::Reloaded;
use crate::organization::rights::Right;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reloaded)]
struct ReloadedShape {
    models: usize,
    upstreams: usize,
}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let doc = "Reads models, prices and upstreams again from the configuration's file.";
    let doc = Doc::platform(Right::ChangePlatform, doc).one::<ReloadedShape>();
    operations.add(&Method::POST, "/api/platform/reload", reload, doc)
}

async fn reload(asked: Asked) -> Reply {
    let mut begun = asked.begin(None).await?;
    let done = catalog::reload(&mut begun.work, &asked.principal).await;
    let shape = |Reloaded { models, upstreams }| ReloadedShape { models, upstreams };
    asked.finish(begun, done.map(|reloaded| Answer::one(&shape(reloaded)))).await
}
