//! The demo's organization: funded, with a project, a key and the operator's token.
//!
//! The two secrets lie in `demo.json` of the data folder, so that a later start shows them again.
//! Nowhere else does the gateway keep a secret in clear.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::limit::{Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::organization::access::{OrgContext, Principal};
use crate::organization::bootstrap::{NewOperator, ensure_operator};
use crate::organization::error::UseCaseError;
use crate::organization::keys::{self, KeyChange};
use crate::organization::members;
use crate::organization::organizations::{self, NewOrganization};
use crate::organization::projects::{self, NewProject};
use crate::organization::quotas::{self, QuotaSubject};
use crate::organization::roles::{Scope, TokenKind};
use crate::organization::services::Services;
use crate::organization::tokens::{self, NewToken};
use crate::organization::unit_of_work::{Origin, UnitOfWork};
use crate::organization::wallet::{self, NewRecharge};

/// What a newcomer needs to try the demo.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeededDemo {
    /// The project's key, in clear.
    pub api_key: String,
    /// The operator's token, in clear; it acts in the demo's organization.
    pub admin_token: String,
    /// The organization.
    pub organization_id: String,
    /// The project.
    pub project_id: String,
}

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// `demo.json` cannot be read or written.
    #[error("demo.json: {0}")]
    File(#[from] io::Error),
    /// `demo.json` is not what an earlier start wrote.
    #[error("demo.json is not understood ({0}); name another data folder")]
    Content(#[from] serde_json::Error),
    /// The organization cannot be made.
    #[error("the demo's organization: {0:?}")]
    UseCase(UseCaseError),
}

impl From<UseCaseError> for SeedError {
    fn from(denied: UseCaseError) -> Self {
        Self::UseCase(denied)
    }
}

/// A data folder that goes with the process.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// A new one, in the system's folder for such.
    pub fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("meteor-demo-{}", Uuid::now_v7().simple()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(fault) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%fault, "the temporary folder could not be removed");
        }
    }
}

/// Money in the demo's wallet at first.
const INITIAL_BALANCE: Nano = Nano::units(1_000);

/// The limits of the Starter template.
fn starter_quota() -> Quota {
    let limits = Limits::default()
        .with(Limit::DailyRequests, Some(10_000))
        .with(Limit::MonthlyRequests, Some(100_000))
        .with(Limit::DailyTokens, Some(1_000_000))
        .with(Limit::MonthlyTokens, Some(10_000_000))
        .with(Limit::RequestsPerMinute, Some(100));
    Quota { limits, ..Quota::default() }
}

/// Makes the demo's organization, or finds the one of an earlier start.
pub async fn seed(platform: &Arc<Services>, folder: &Path) -> Result<SeededDemo, SeedError> {
    let file = folder.join("demo.json");
    match std::fs::read(&file) {
        Ok(text) => return Ok(serde_json::from_slice(&text)?),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
        Err(fault) => return Err(fault.into()),
    }
    let seeded = create(platform).await?;
    // Whole or not at all: a start that is cut off here leaves nothing that the next stumbles over.
    let draft = folder.join("demo.json.new");
    let mut open = OpenOptions::new();
    let mut writing = open.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    writing.write_all(&serde_json::to_vec_pretty(&seeded)?)?;
    writing.sync_all()?;
    std::fs::rename(&draft, &file)?;
    Ok(seeded)
}

async fn create(platform: &Arc<Services>) -> Result<SeededDemo, UseCaseError> {
    let email = "operator@demo.invalid".to_owned();
    let new = NewOperator { email, name: "Demo operator".to_owned(), password: None };
    let operator = Arc::new(Principal::system(ensure_operator(platform, new).await?));

    let mut work = UnitOfWork::begin(platform, Origin::default()).await?;
    let new = NewOrganization {
        name: "Demo".to_owned(),
        description: Some("To try the gateway with".to_owned()),
        self_funding: true,
        on_disconnect: "cancel".to_owned(),
        output_clamp: true,
        allowed_models: None,
    };
    let organization = organizations::create(&mut work, &operator, new).await?;
    let seat = OrgContext::for_operator(Arc::clone(&operator), organization.clone());
    members::add_admin(&mut work, &seat, "admin@demo.invalid", "Demo admin").await?;
    let new = NewRecharge { amount: INITIAL_BALANCE, description: None, reference: None };
    wallet::recharge(&mut work, &seat, &new).await?;
    let new = NewProject {
        name: "Demo".to_owned(),
        description: None,
        organization: None,
        allowed_models: None,
        ceiling: None,
    };
    let project = projects::create(&mut work, &seat, new).await?;
    quotas::replace(&mut work, &seat, QuotaSubject::Project(project.id), starter_quota()).await?;
    let new = KeyChange { name: Some("demo".to_owned()), ..KeyChange::default() };
    let (_, api_key) = keys::create(&mut work, &seat, project.id, new).await?;
    let new = NewToken {
        name: "demo".to_owned(),
        kind: TokenKind::Platform,
        organization: Some(organization.id),
        scopes: Scope::ALL.to_vec(),
        expires_at: Some(None),
    };
    let (_, admin_token) = tokens::create(&mut work, &operator, None, new).await?;
    work.commit().await?;
    Ok(SeededDemo {
        api_key: api_key.expose().to_owned(),
        admin_token: admin_token.expose().to_owned(),
        organization_id: organization.id.to_string(),
        project_id: project.id.to_string(),
    })
}
