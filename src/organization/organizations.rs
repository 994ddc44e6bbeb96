//! Organizations: created by the operator, managed by their Admins.

use serde_json::{Value, json};

use crate::domain::ids::OrganizationId;
use crate::domain::status::{OnDisconnect, OrganizationStatus};
use crate::organization::access::{OrgContext, Principal};
use crate::organization::error::UseCaseError;
use crate::organization::rights::{Action, Forbidden};
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, Effect, UnitOfWork};
use crate::store::columns::new_id;
use crate::store::organizations::{self, Organization, OrganizationFilter};
use crate::store::paging::{Page, Sort};

/// An organization to create.
#[derive(Debug)]
pub struct NewOrganization {
    pub name: String,
    pub description: Option<String>,
    /// Whether its own members may recharge its wallet.
    pub self_funding: bool,
    /// What happens to a call whose client disconnects.
    pub on_disconnect: OnDisconnect,
    /// Whether the output bound of its calls is lowered to the headroom of limits and wallet.
    pub output_clamp: bool,
    /// Glob patterns of the models it may use; `None` allows all.
    pub allowed_models: Option<Vec<String>>,
}

/// A change of an organization. `None` leaves a field unchanged.
#[derive(Debug, Default)]
pub struct OrganizationChange {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    /// Only the operator may change this.
    pub status: Option<OrganizationStatus>,
    /// Only the operator may change this.
    pub self_funding: Option<bool>,
    /// What happens to a call whose client disconnects.
    pub on_disconnect: Option<OnDisconnect>,
    /// Whether the output bound of its calls is lowered to the headroom of limits and wallet.
    pub output_clamp: Option<bool>,
    /// Glob patterns of the models it may use; `Some(None)` allows all.
    pub allowed_models: Option<Option<Vec<String>>>,
}

/// Creates an organization with an empty wallet.
pub async fn create(
    work: &mut UnitOfWork,
    principal: &Principal,
    new: NewOrganization,
) -> Result<Organization, UseCaseError> {
    principal.require(Action::ChangePlatform)?;
    let now = work.now();
    let organization = Organization {
        id: OrganizationId(new_id(now)),
        name: new.name,
        description: new.description,
        status: OrganizationStatus::Active,
        self_funding: new.self_funding,
        on_disconnect: new.on_disconnect,
        output_clamp: new.output_clamp,
        allowed_models: new.allowed_models,
        member_count: 0,
        project_count: 0,
        created_at: now,
        updated_at: now,
        version: 1,
    };
    organizations::insert(work.connection(), &organization).await?;
    work.after_commit(Effect::Organization(organization.id));
    let change = AuditChange {
        organization: Some(organization.id),
        action: "organization.create".into(),
        target: audit_target(&organization),
        before: None,
        after: Some(audit_json(&organization)),
    };
    work.audit(&principal.actor(), change).await?;
    Ok(organization)
}

/// Returns one page of the organizations of the deployment, and the total count.
pub async fn list(
    services: &Services,
    principal: &Principal,
    filter: OrganizationFilter<'_>,
    page: Page,
    sort: Sort,
) -> Result<(Vec<Organization>, i64), UseCaseError> {
    principal.require(Action::ViewPlatform)?;
    let reader = services.database.reader();
    Ok(organizations::list(reader, filter, page, sort).await?)
}

/// Returns the organization of the context.
pub fn view(org: &OrgContext) -> Result<&Organization, UseCaseError> {
    org.require(Action::ViewOrganization)?;
    Ok(&org.organization)
}

/// Changes the organization. Closing it requires that no call is open.
pub async fn change(
    work: &mut UnitOfWork,
    org: &OrgContext,
    change: OrganizationChange,
) -> Result<Organization, UseCaseError> {
    org.require(Action::ChangeOrganization)?;
    let operator_only = change.status.is_some() || change.self_funding.is_some();
    if operator_only && !org.is_operator() {
        return Err(Forbidden::Permission("operator").into());
    }
    let found = organizations::by_id(work.connection(), org.organization.id).await?;
    let before = found.ok_or(UseCaseError::NotFound)?;
    work.check_version(before.version)?;
    if change.status == Some(OrganizationStatus::Closed) {
        let live = work.services().directory.live_state();
        if live.organization(before.id).is_some_and(|state| !state.holds().is_empty()) {
            let message =
                "calls are still open: set the status to Inactive first, and to Closed later";
            return Err(UseCaseError::conflict("holds_open", message));
        }
    }
    let now = work.now();
    let old = before.clone();
    let after = Organization {
        name: change.name.unwrap_or(old.name),
        description: change.description.unwrap_or(old.description),
        status: change.status.unwrap_or(old.status),
        self_funding: change.self_funding.unwrap_or(old.self_funding),
        on_disconnect: change.on_disconnect.unwrap_or(old.on_disconnect),
        output_clamp: change.output_clamp.unwrap_or(old.output_clamp),
        allowed_models: change.allowed_models.unwrap_or(old.allowed_models),
        updated_at: now,
        version: old.version + 1,
        ..old
    };
    organizations::update(work.connection(), &after).await?;
    work.after_commit(Effect::Organization(after.id));
    let change = AuditChange {
        organization: Some(after.id),
        action: "organization.update".into(),
        target: audit_target(&after),
        before: Some(audit_json(&before)),
        after: Some(audit_json(&after)),
    };
    work.audit(&org.principal.actor(), change).await?;
    Ok(after)
}

pub fn audit_target(organization: &Organization) -> AuditTarget {
    AuditTarget {
        kind: "organization",
        id: organization.id.to_string(),
        name: organization.name.clone(),
    }
}

fn audit_json(organization: &Organization) -> Value {
    json!({
        "name": organization.name,
        "description": organization.description,
        "status": organization.status.name(),
        "selfFunding": organization.self_funding,
        "onDisconnect": organization.on_disconnect.name(),
        "outputClamp": organization.output_clamp,
        "allowedModels": organization.allowed_models,
    })
}
