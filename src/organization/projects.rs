//! Projects: creation, change and archiving. The records of an archived project stay.

use serde_json::{Value, json};

use crate::domain::ids::ProjectId;
use crate::domain::limit::{Limit, Limits};
use crate::domain::quota::Quota;
use crate::domain::roles::ProjectRole;
use crate::domain::status::ProjectStatus;
use crate::organization::access::OrgContext;
use crate::organization::error::{FieldError, UseCaseError};
use crate::organization::rights::{AccessLevel, Action};
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, Effect, UnitOfWork};
use crate::store::columns::new_id;
use crate::store::members::{self, NewProjectMember};
use crate::store::paging::{Page, Sort};
use crate::store::projects::{self, Project, ProjectFilter};
use crate::store::quotas;

/// A project to create.
#[derive(Debug, Default)]
pub struct NewProject {
    pub name: String,
    pub description: Option<String>,
    /// The organization id in the request body, if any.
    pub organization: Option<String>,
    /// Glob patterns of the models it may use; `None` allows all.
    pub allowed_models: Option<Vec<String>>,
    /// The highest limits that its Owners may set.
    pub ceiling: Option<Limits>,
}

/// A change of a project. `None` leaves a field unchanged.
#[derive(Debug, Default)]
pub struct ProjectChange {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    /// Glob patterns of the models it may use; `Some(None)` allows all.
    pub allowed_models: Option<Option<Vec<String>>>,
    /// The highest limits that its Owners may set.
    pub ceiling: Option<Option<Limits>>,
}

/// Creates a project. A member of the organization who creates it becomes its Owner. If it has a
/// ceiling, its first quota equals the ceiling.
pub async fn create(
    work: &mut UnitOfWork,
    org: &OrgContext,
    new: NewProject,
) -> Result<Project, UseCaseError> {
    org.require(Action::CreateProject)?;
    if new.ceiling.is_some() {
        org.require(Action::SetCeiling)?;
    }
    let (now, organization) = (work.now(), org.organization.id);
    let creator = org.principal.user.id;
    let is_member = members::is_member(work.connection(), organization, creator).await?;
    let project = Project {
        id: ProjectId(new_id(now)),
        organization,
        name: new.name,
        description: new.description,
        status: ProjectStatus::Active,
        template_id: None,
        allowed_models: new.allowed_models,
        ceiling: new.ceiling,
        ownerless: !is_member,
        created_by: creator,
        created_at: now,
        updated_at: now,
        archived_at: None,
        version: 1,
    };
    projects::insert(work.connection(), &project).await?;
    if let Some(limits) = project.ceiling {
        let quota = Quota { limits, ..Quota::default() };
        quotas::replace(work.connection(), project.id.0, &quota, now).await?;
    }
    if is_member {
        let owner = NewProjectMember { user: creator, role: ProjectRole::Owner, added_by: creator };
        members::insert_in_project(work.connection(), project.id, owner, now).await?;
    }
    work.after_commit(Effect::Project(project.id));
    audit(work, org, "project.create", None, Some(&project)).await?;
    Ok(project)
}

/// Returns one page of the projects of the organization, and the total count.
///
/// A principal without the right to view a project sees its name and status only.
pub async fn list(
    services: &Services,
    org: &OrgContext,
    filter: ProjectFilter<'_>,
    page: Page,
    sort: Sort,
) -> Result<(Vec<Project>, i64), UseCaseError> {
    org.require(Action::ListProjects)?;
    let (reader, organization) = (services.database.reader(), org.organization.id);
    let (projects, total) = projects::list(reader, organization, filter, page, sort).await?;
    Ok((projects.into_iter().map(|project| hide_restricted_fields(org, project)).collect(), total))
}

/// Returns one project, with the fields that the principal may see.
pub async fn view(
    services: &Services,
    org: &OrgContext,
    id: ProjectId,
) -> Result<Project, UseCaseError> {
    let found = projects::by_id(services.database.reader(), org.organization.id, id).await?;
    let project = found.ok_or(UseCaseError::NotFound)?;
    org.require(Action::ListProjects)?;
    Ok(hide_restricted_fields(org, project))
}

fn hide_restricted_fields(org: &OrgContext, project: Project) -> Project {
    if org.require_in_project(Action::ViewProject, project.id).is_ok() {
        return project;
    }
    Project { description: None, template_id: None, allowed_models: None, ceiling: None, ..project }
}

/// Finds a project in which the principal may perform `action`, and the access level.
pub async fn find_for(
    services: &Services,
    org: &OrgContext,
    id: ProjectId,
    action: Action,
) -> Result<(Project, AccessLevel), UseCaseError> {
    let found = projects::by_id(services.database.reader(), org.organization.id, id).await?;
    let project = found.ok_or(UseCaseError::NotFound)?;
    let level = org.require_in_project(action, id)?;
    Ok((project, level))
}

/// Like [`find_for`], for a change: refuses archived projects.
pub async fn find_for_update(
    work: &mut UnitOfWork,
    org: &OrgContext,
    id: ProjectId,
    action: Action,
) -> Result<(Project, AccessLevel), UseCaseError> {
    let found = projects::by_id(work.connection(), org.organization.id, id).await?;
    let project = found.ok_or(UseCaseError::NotFound)?;
    let level = org.require_in_project(action, id)?;
    if project.status == ProjectStatus::Archived {
        return Err(UseCaseError::conflict("project_archived", "the project is archived"));
    }
    Ok((project, level))
}

pub async fn change(
    work: &mut UnitOfWork,
    org: &OrgContext,
    id: ProjectId,
    change: ProjectChange,
) -> Result<Project, UseCaseError> {
    let only_ceiling = change.name.is_none()
        && change.description.is_none()
        && change.allowed_models.is_none()
        && change.ceiling.is_some();
    let action = if only_ceiling { Action::SetCeiling } else { Action::ChangeProject };
    let (before, _) = find_for_update(work, org, id, action).await?;
    if change.ceiling.is_some() {
        org.require(Action::SetCeiling)?;
    }
    work.check_version(before.version)?;
    if let Some(Some(ceiling)) = &change.ceiling {
        let quota = quotas::read(work.connection(), id.0).await?.quota;
        check_ceiling(&quota, ceiling, |limit| match limit {
            Some(limit) => {
                let field = limit.field();
                let message = format!(
                    "{field} of the current quota is above this ceiling; lower the quota first"
                );
                (format!("/ceiling/{field}"), message)
            }
            None => (
                "/ceiling".into(),
                "the current quota is not enforced; set enforceQuota first".into(),
            ),
        })?;
    }
    let old = before.clone();
    let after = Project {
        name: change.name.unwrap_or(old.name),
        description: change.description.unwrap_or(old.description),
        allowed_models: change.allowed_models.unwrap_or(old.allowed_models),
        ceiling: change.ceiling.unwrap_or(old.ceiling),
        updated_at: work.now(),
        version: old.version + 1,
        ..old
    };
    projects::update(work.connection(), &after).await?;
    work.after_commit(Effect::Project(id));
    audit(work, org, "project.update", Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Archives a project: its keys are refused from now on, its records stay.
pub async fn archive(
    work: &mut UnitOfWork,
    org: &OrgContext,
    id: ProjectId,
) -> Result<(), UseCaseError> {
    let found = projects::by_id(work.connection(), org.organization.id, id).await?;
    let before = found.ok_or(UseCaseError::NotFound)?;
    org.require_in_project(Action::ArchiveProject, id)?;
    if before.status == ProjectStatus::Archived {
        return Err(UseCaseError::NotFound);
    }
    work.check_version(before.version)?;
    let now = work.now();
    let after = Project {
        status: ProjectStatus::Archived,
        archived_at: Some(now),
        updated_at: now,
        version: before.version + 1,
        ..before.clone()
    };
    projects::update(work.connection(), &after).await?;
    work.after_commit(Effect::Project(id));
    audit(work, org, "project.archive", Some(&before), Some(&after)).await
}

/// Checks that each limit of the ceiling is set in `quota`, not above the ceiling, and enforced.
///
/// `describe` returns the field and the message of the error: for a limit, or with `None` for the
/// enforcement of all limits.
pub fn check_ceiling(
    quota: &Quota,
    ceiling: &Limits,
    describe: impl Fn(Option<Limit>) -> (String, String),
) -> Result<(), UseCaseError> {
    let fits = |(limit, max)| quota.limits.get(limit).is_some_and(|value| value <= max);
    let above = ceiling.configured().filter(|entry| !fits(*entry)).map(|(limit, _)| Some(limit));
    let unenforced = (!quota.enforce && ceiling.configured().next().is_some()).then_some(None);
    let error = |limit| {
        let (param, message) = describe(limit);
        FieldError::new(param, "above_ceiling", message)
    };
    let errors: Vec<FieldError> = above.chain(unenforced).map(error).collect();
    if errors.is_empty() { Ok(()) } else { Err(UseCaseError::Invalid(errors)) }
}

async fn audit(
    work: &mut UnitOfWork,
    org: &OrgContext,
    action: &'static str,
    before: Option<&Project>,
    after: Option<&Project>,
) -> Result<(), UseCaseError> {
    let target = after.or(before).map(|project| (project.id.to_string(), project.name.clone()));
    let (id, name) = target.unwrap_or_default();
    let change = AuditChange {
        organization: Some(org.organization.id),
        action: action.into(),
        target: AuditTarget { kind: "project", id, name },
        before: before.map(audit_json),
        after: after.map(audit_json),
    };
    work.audit(&org.principal.actor(), change).await
}

fn audit_json(project: &Project) -> Value {
    json!({
        "name": project.name,
        "description": project.description,
        "status": project.status.name(),
        "allowedModels": project.allowed_models,
        "ceilingNano": project.ceiling.as_ref().map(quotas::limits_json),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_bounds_each_limit_that_it_sets() {
        let ceiling = Limits::default().with(Limit::DailyRequests, Some(10));
        let quota = |value| Quota {
            limits: Limits::default().with(Limit::DailyRequests, value),
            ..Quota::default()
        };
        let fits = |quota: &Quota, ceiling: &Limits| {
            check_ceiling(quota, ceiling, |_| Default::default()).is_ok()
        };
        assert!(fits(&quota(Some(10)), &ceiling));
        assert!(!fits(&quota(Some(11)), &ceiling));
        assert!(!fits(&quota(None), &ceiling), "an unset limit is above the ceiling");
        assert!(
            !fits(&Quota { enforce: false, ..quota(Some(10)) }, &ceiling),
            "a quota that is not enforced is above the ceiling"
        );
        assert!(fits(&Quota { enforce: false, ..quota(None) }, &Limits::default()));
    }
}
