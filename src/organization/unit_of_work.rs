//! A unit of work: all of its changes are committed, or none. Then the directory is updated.

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

/// The request that causes a change.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    pub address: Option<IpAddr>,
    pub request_id: String,
    /// The version that the client expects, from `If-Match`.
    pub if_match: Option<i64>,
}

/// What in memory must be updated after a commit.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    /// The wallet was credited with this amount.
    Credit(OrganizationId, Nano),
    Project(ProjectId),
    /// An organization, its quota or its wallet changed.
    Organization(OrganizationId),
}

/// The object that a change applies to.
#[derive(Debug, Default)]
pub struct AuditTarget {
    /// The kind of the object, such as `project`.
    pub kind: &'static str,
    pub id: String,
    pub name: String,
}

/// A change, as the audit log records it.
#[derive(Debug)]
pub struct AuditChange {
    /// The organization; `None` for a change of the platform.
    pub organization: Option<OrganizationId>,
    /// The name of the change, such as `project.update`.
    pub action: Cow<'static, str>,
    pub target: AuditTarget,
    /// The changed fields before the change.
    pub before: Option<Value>,
    /// The changed fields after the change.
    pub after: Option<Value>,
}

/// A database transaction with the effects that follow its commit.
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
    /// Begins a transaction. Waits for the one before it, as there is one at a time.
    pub async fn begin(services: &Arc<Services>, origin: Origin) -> Result<Self, UseCaseError> {
        let tx = services.database.begin().await?;
        let services = Arc::clone(services);
        Ok(Self {
            services,
            tx,
            now: clock::wall_now(),
            origin,
            effects: Vec::new(),
            hooks: Vec::new(),
        })
    }

    pub const fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// The connection on which the transaction runs.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// The time of the change.
    pub const fn now(&self) -> UnixMs {
        self.now
    }

    /// Checks that the object still has the version that the client expects.
    pub fn check_version(&self, version: i64) -> Result<(), UseCaseError> {
        if self.origin.if_match.is_some_and(|expected| expected != version) {
            return Err(UseCaseError::VersionConflict);
        }
        Ok(())
    }

    /// Adds an update of the state in memory, to be applied after the commit.
    pub fn after_commit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Adds a hook to be run after the commit.
    pub fn add_hook(&mut self, hook: CommitHook) {
        self.hooks.push(hook);
    }

    /// Writes a change into the audit log.
    pub async fn audit(&mut self, actor: &Actor, change: AuditChange) -> Result<(), UseCaseError> {
        self.log(actor, change, true).await
    }

    /// Writes a denied change into the audit log.
    pub async fn audit_denied(
        &mut self,
        actor: &Actor,
        change: AuditChange,
    ) -> Result<(), UseCaseError> {
        self.log(actor, change, false).await
    }

    async fn log(
        &mut self,
        actor: &Actor,
        change: AuditChange,
        allowed: bool,
    ) -> Result<(), UseCaseError> {
        let AuditTarget { kind, id, name } = change.target;
        let entry = AuditEntry {
            at: self.now,
            organization: change.organization,
            actor: serde_json::to_string(actor).unwrap_or_default(),
            action: &change.action,
            target: serde_json::json!({"type": kind, "id": id, "name": name}).to_string(),
            before: change.before.map(|value| value.to_string()),
            after: change.after.map(|value| value.to_string()),
            allowed,
            client_address: self.origin.address,
            request_id: self.origin.request_id.clone(),
        };
        Ok(audit::insert(&mut self.tx, &entry).await?)
    }

    /// Commits, runs the hooks and applies the effects. Runs in a task of its own, so that it
    /// completes even if the request is cancelled.
    pub async fn commit(self) -> Result<(), UseCaseError> {
        let Self { services, tx, now, effects, hooks, .. } = self;
        let committed = tasks::spawn("commit", async move {
            let _order = services.commit_order.lock().await;
            tx.commit().await.map_err(DatabaseError::from)?;
            crash_point!("money-committed" if effects.iter().any(|effect| matches!(effect, Effect::Credit(..))));
            for CommitHook(hook) in hooks {
                hook();
            }
            apply_effects(&services, &effects, now).await;
            Ok::<(), DatabaseError>(())
        });
        committed
            .await
            .map_err(|error| UseCaseError::Internal(error.to_string()))?
            .map_err(UseCaseError::from)
    }
}

/// The delay before a failed refresh of the directory is retried.
const REFRESH_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Applies a committed change to the live state and the directory.
///
/// A wallet without live state is loaded from the database with the new balance, so that it is not
/// credited a second time.
async fn apply_effects(services: &Services, effects: &[Effect], now: UnixMs) {
    let directory = &services.directory;
    let mut unloaded = Vec::new();
    for effect in effects {
        if let Effect::Credit(organization, amount) = effect {
            match directory.live_state().organization(*organization) {
                Some(organization) => organization.credit(*amount),
                None => unloaded.push(*organization),
            }
        }
    }
    for effect in effects {
        // The change is committed, so the refresh is retried until the directory has it.
        while let Err(error) = refresh(services, effect, &unloaded, now).await {
            tracing::error!(%error, ?effect, "directory refresh failed; retrying");
            tokio::time::sleep(REFRESH_RETRY_DELAY).await;
        }
    }
}

async fn refresh(
    services: &Services,
    effect: &Effect,
    unloaded: &[OrganizationId],
    now: UnixMs,
) -> Result<(), DatabaseError> {
    let (directory, database) = (&services.directory, &services.database);
    match effect {
        Effect::Project(project) => directory.refresh_project(database, *project, now).await,
        Effect::Organization(organization) => {
            directory.refresh_organization(database, *organization, now).await
        }
        Effect::Credit(organization, _) if unloaded.contains(organization) => {
            directory.refresh_organization(database, *organization, now).await
        }
        Effect::Credit(..) => Ok(()),
    }
}
