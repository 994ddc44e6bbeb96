//! Creates the organization of the demo, with a balance, a project, an API key and an admin token.
//!
//! The two secrets are stored in `demo.json` of the data folder, so that a later start can print
//! them again. The gateway stores no other secret in clear text.

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
use crate::domain::roles::{Scope, TokenKind};
use crate::domain::status::OnDisconnect;
use crate::organization::access::{OrgContext, Principal};
use crate::organization::bootstrap::{NewOperator, ensure_operator};
use crate::organization::error::UseCaseError;
use crate::organization::keys::{self, KeyChange};
use crate::organization::members;
use crate::organization::organizations::{self, NewOrganization};
use crate::organization::projects::{self, NewProject};
use crate::organization::quotas::{self, QuotaSubject};
use crate::organization::services::Services;
use crate::organization::tokens::{self, NewToken};
use crate::organization::unit_of_work::{Origin, UnitOfWork};
use crate::organization::wallet::{self, NewRecharge};

/// The credentials and ids printed by the demo.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeededDemo {
    /// The API key in clear text.
    pub api_key: String,
    /// An operator's admin token in clear text. Its default organization is that of the demo.
    pub admin_token: String,
    pub organization_id: String,
    pub project_id: String,
}

/// An error while preparing the demo.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// `demo.json` cannot be read or written.
    #[error("demo.json: {0}")]
    File(#[from] io::Error),
    /// `demo.json` does not have the expected format.
    #[error("demo.json has an unexpected format ({0}); use another data folder")]
    Content(#[from] serde_json::Error),
    /// The organization cannot be created.
    #[error("the demo organization could not be created: {0:?}")]
    UseCase(UseCaseError),
}

impl From<UseCaseError> for SeedError {
    fn from(denied: UseCaseError) -> Self {
        Self::UseCase(denied)
    }
}

/// A data folder that is deleted on drop.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Creates a folder in the system's temporary folder.
    pub fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("meteor-demo-{}", Uuid::now_v7().simple()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "temporary folder could not be deleted");
        }
    }
}

/// Initial balance of the wallet.
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

/// Creates the organization, or returns the one of an earlier start.
pub async fn seed(services: &Arc<Services>, folder: &Path) -> Result<SeededDemo, SeedError> {
    let file = folder.join("demo.json");
    match std::fs::read(&file) {
        Ok(text) => return Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let seeded = create(services).await?;
    // Write to a temporary file and rename, so that an interrupted start leaves no partial file.
    let temporary_file = folder.join("demo.json.new");
    let mut open = OpenOptions::new();
    let mut writer =
        open.write(true).create(true).truncate(true).mode(0o600).open(&temporary_file)?;
    writer.write_all(&serde_json::to_vec_pretty(&seeded)?)?;
    writer.sync_all()?;
    std::fs::rename(&temporary_file, &file)?;
    Ok(seeded)
}

async fn create(services: &Arc<Services>) -> Result<SeededDemo, UseCaseError> {
    let email = "operator@demo.invalid".to_owned();
    let new = NewOperator { email, name: "Demo operator".to_owned(), password: None };
    let operator = Arc::new(Principal::system(ensure_operator(services, new).await?));

    let mut work = UnitOfWork::begin(services, Origin::default()).await?;
    let new = NewOrganization {
        name: "Demo".to_owned(),
        description: Some("For trying out the gateway".to_owned()),
        self_funding: true,
        on_disconnect: OnDisconnect::Cancel,
        output_clamp: true,
        allowed_models: None,
    };
    let organization = organizations::create(&mut work, &operator, new).await?;
    let org = OrgContext::for_operator(Arc::clone(&operator), organization.clone());
    members::add_admin(&mut work, &org, "admin@demo.invalid", "Demo admin").await?;
    let new = NewRecharge { amount: INITIAL_BALANCE, description: None, reference: None };
    wallet::recharge(&mut work, &org, &new).await?;
    let new = NewProject {
        name: "Demo".to_owned(),
        description: None,
        organization: None,
        allowed_models: None,
        ceiling: None,
    };
    let project = projects::create(&mut work, &org, new).await?;
    quotas::replace(&mut work, &org, QuotaSubject::Project(project.id), starter_quota()).await?;
    let new = KeyChange { name: Some("demo".to_owned()), ..KeyChange::default() };
    let (_, api_key) = keys::create(&mut work, &org, project.id, new).await?;
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
