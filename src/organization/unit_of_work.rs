//! Work: one unit of change. All of it is committed, or nothing; then the directory sees it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use crate::clock;
use crate::crash::crash_point;
use crate::domain::ids::{OrganizationId, ProjectId};
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::organization::access::Actor;
use crate::organization::error::UseCaseError;
use crate::organization::services::{CommitHook, Services};
use crate::store::audit::{self, AuditEntry};
use crate::store::database::DatabaseError;
use crate::tasks;

/// Where a change comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The id of the request.
    pub request_id: String,
    /// The version that the client has read and wants to change.
    pub if_match: Option<i64>,
}

/// What the rest of the process must learn of a change.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    /// Money came in.
    Credit(OrganizationId, Nano),
    /// A project, its quota or its keys changed.
    Project(ProjectId),
    /// An organization or its wallet changed.
    Organization(OrganizationId),
}

/// A change, as the audit log tells it.
#[derive(Debug)]
pub struct AuditChange {
    /// Where; `None`: on the platform.
    pub organization: Option<OrganizationId>,
    /// What was done, such as `project.update`.
    pub action: Cow<'static, str>,
    /// To what: its kind, id and name.
    pub target: (&'static str, String, String),
    /// What it was.
    pub before: Option<Value>,
    /// What it became.
    pub after: Option<Value>,
}

/// A unit of change that is under way.
#[derive(Debug)]
pub struct UnitOfWork {
    services: Arc<Services>,
    tx: Transaction<'static, Sqlite>,
    now: UnixMs,
    origin: Origin,
    effects: Vec<Effect>,
    hooks: Vec<CommitHook>,
}

impl UnitOfWork {
    /// Begins; there is one at a time.
    pub async fn begin(platform: &Arc<Services>, origin: Origin) -> Result<Self, UseCaseError> {
        let tx = platform.database.begin().await?;
        let platform = Arc::clone(platform);
        Ok(Self {
            services: platform,
            tx,
            now: clock::wall_now(),
            origin,
            effects: Vec::new(),
            hooks: Vec::new(),
        })
    }

    /// What it works on.
    pub const fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Where its statements run.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// The moment of the change.
    pub const fn now(&self) -> UnixMs {
        self.now
    }

    /// Whether the client knows the state that it changes.
    pub fn check_version(&self, version: i64) -> Result<(), UseCaseError> {
        if self.origin.if_match.is_some_and(|known| known != version) {
            return Err(UseCaseError::VersionConflict);
        }
        Ok(())
    }

    /// Has the rest of the process learn of it, after the commit.
    pub fn after_commit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Puts something in force, after the commit.
    pub fn add_hook(&mut self, enforce: CommitHook) {
        self.hooks.push(enforce);
    }

    /// Writes it into the audit log.
    pub async fn audit(&mut self, by: &Actor, change: AuditChange) -> Result<(), UseCaseError> {
        self.log(by, change, true).await
    }

    /// Writes into the audit log that it was denied.
    pub async fn audit_denied(
        &mut self,
        by: &Actor,
        change: AuditChange,
    ) -> Result<(), UseCaseError> {
        self.log(by, change, false).await
    }

    async fn log(
        &mut self,
        by: &Actor,
        change: AuditChange,
        done: bool,
    ) -> Result<(), UseCaseError> {
        let (kind, id, name) = change.target;
        let entry = AuditEntry {
            at: self.now,
            organization: change.organization,
            actor: serde_json::to_string(by).unwrap_or_default(),
            action: &change.action,
            target: serde_json::json!({"type": kind, "id": id, "name": name}).to_string(),
            before: change.before.map(|value| value.to_string()),
            after: change.after.map(|value| value.to_string()),
            done,
            client_address: self.origin.address,
            request_id: self.origin.request_id.clone(),
        };
        Ok(audit::insert(&mut self.tx, &entry).await?)
    }

    /// Commits, and then has the directory see it. Once begun this ends, whoever waits for it.
    pub async fn commit(self) -> Result<(), UseCaseError> {
        let Self { services: platform, tx, now, effects, hooks: enforced, .. } = self;
        let landed = tasks::spawn("commit", async move {
            let _landing = platform.commit_order.lock().await;
            tx.commit().await.map_err(DatabaseError::from)?;
            crash_point!("money-committed" if effects.iter().any(|effect| matches!(effect, Effect::Credit(..))));
            for CommitHook(enforce) in enforced {
                enforce();
            }
            apply_effects(&platform, &effects, now).await;
            Ok::<(), DatabaseError>(())
        });
        landed
            .await
            .map_err(|fault| UseCaseError::Internal(fault.to_string()))?
            .map_err(UseCaseError::from)
    }
}

/// How long to wait before an edit is read again.
const REFRESH_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Brings a commit into the books and the directory.
///
/// A wallet that is not in the books yet is read with its money in it: it is not funded again.
async fn apply_effects(platform: &Services, effects: &[Effect], now: UnixMs) {
    let directory = &platform.directory;
    let mut unread = Vec::new();
    for effect in effects {
        if let Effect::Credit(organization, amount) = effect {
            match directory.live_state().organization(*organization) {
                Some(book) => book.credit(*amount),
                None => unread.push(*organization),
            }
        }
    }
    for effect in effects {
        // What is committed is in force: the directory must learn of it, however often it takes.
        while let Err(fault) = refresh(platform, effect, &unread, now).await {
            tracing::error!(%fault, ?effect, "an edit is not in force yet; it is read again");
            tokio::time::sleep(REFRESH_RETRY_DELAY).await;
        }
    }
}

async fn refresh(
    platform: &Services,
    effect: &Effect,
    unread: &[OrganizationId],
    now: UnixMs,
) -> Result<(), DatabaseError> {
    let (directory, database) = (&platform.directory, &platform.database);
    match effect {
        Effect::Project(project) => directory.refresh_project(database, *project, now).await,
        Effect::Organization(organization) => {
            directory.refresh_organization(database, *organization, now).await
        }
        Effect::Credit(organization, _) if unread.contains(organization) => {
            directory.refresh_organization(database, *organization, now).await
        }
        Effect::Credit(..) => Ok(()),
    }
}
