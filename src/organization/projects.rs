//! Projects: creation, change and archiving. The records of an archived project stay.

use serde_json::{Value, json};

use crate::domain::ids::ProjectId;
use crate::domain::limit::{Limit, Limits};
use crate::domain::quota::Quota;
use crate::organization::access::OrgContext;
use crate::organization::error::{FieldError, UseCaseError};
use crate::organization::rights::{AccessLevel, Action};
use crate::organization::roles::ProjectRole;
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, Effect, UnitOfWork};
use crate::store::columns::new_id;
use crate::store::paging::{Page, Sort};
use crate::store::projects::{self, Project};
use crate::store::{members, quotas};

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
    seat: &OrgContext,
    new: NewProject,
) -> Result<Project, UseCaseError> {
    seat.require(Action::CreateProject)?;
    if new.ceiling.is_some() {
        seat.require(Action::SetCeiling)?;
    }
    let (now, organization) = (work.now(), seat.organization.id);
    let maker = seat.principal.user.id;
    let owns = members::is_member(work.connection(), organization, maker).await?;
    let project = Project {
        id: ProjectId(new_id(now)),
        organization,
        name: new.name,
        description: new.description,
        active: true,
        template_id: None,
        allowed_models: new.allowed_models,
        ceiling: new.ceiling,
        ownerless: !owns,
        created_by: maker,
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
    if owns {
        let (role, by) = (ProjectRole::Owner.name(), (maker, now));
        members::insert_in_project(work.connection(), project.id, maker, role, by).await?;
    }
    work.after_commit(Effect::Project(project.id));
    audit(work, seat, "project.create", (None, Some(&project))).await?;
    Ok(project)
}

/// Returns one page of the projects of the organization, and the total count.
///
/// A principal without the right to view a project sees its name and status only.
pub async fn list(
    platform: &Services,
    seat: &OrgContext,
    filter: (Option<&str>, Option<&str>),
    page: Page,
    sort: Sort,
) -> Result<(Vec<Project>, i64), UseCaseError> {
    seat.require(Action::ListProjects)?;
    let (reader, organization) = (platform.database.reader(), seat.organization.id);
    let (projects, total) = projects::list(reader, organization, filter, page, sort).await?;
    Ok((projects.into_iter().map(|project| hide_restricted_fields(seat, project)).collect(), total))
}

/// Returns one project, with the fields that the principal may see.
pub async fn view(
    platform: &Services,
    seat: &OrgContext,
    id: ProjectId,
) -> Result<Project, UseCaseError> {
    let found = projects::by_id(platform.database.reader(), seat.organization.id, id).await?;
    let project = found.ok_or(UseCaseError::NotFound)?;
    seat.require(Action::ListProjects)?;
    Ok(hide_restricted_fields(seat, project))
}

fn hide_restricted_fields(seat: &OrgContext, project: Project) -> Project {
    if seat.require_in_project(Action::ViewProject, project.id).is_ok() {
        return project;
    }
    Project { description: None, template_id: None, allowed_models: None, ceiling: None, ..project }
}

/// Finds a project in which the principal may perform `action`, and the access level.
pub async fn find_for(
    platform: &Services,
    seat: &OrgContext,
    id: ProjectId,
    right: Action,
) -> Result<(Project, AccessLevel), UseCaseError> {
    let found = projects::by_id(platform.database.reader(), seat.organization.id, id).await?;
    let project = found.ok_or(UseCaseError::NotFound)?;
    let reach = seat.require_in_project(right, id)?;
    Ok((project, reach))
}

/// Like [`find_for`], for a change: refuses archived projects.
pub async fn find_for_update(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    id: ProjectId,
    right: Action,
) -> Result<(Project, AccessLevel), UseCaseError> {
    let found = projects::by_id(work.connection(), seat.organization.id, id).await?;
    let project = found.ok_or(UseCaseError::NotFound)?;
    let reach = seat.require_in_project(right, id)?;
    if !project.active {
        return Err(UseCaseError::conflict("project_archived", "the project is archived"));
    }
    Ok((project, reach))
}

pub async fn change(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    id: ProjectId,
    change: ProjectChange,
) -> Result<Project, UseCaseError> {
    let only_ceiling = change.name.is_none()
        && change.description.is_none()
        && change.allowed_models.is_none()
        && change.ceiling.is_some();
    let right = if only_ceiling { Action::SetCeiling } else { Action::ChangeProject };
    let (before, _) = find_for_update(work, seat, id, right).await?;
    if change.ceiling.is_some() {
        seat.require(Action::SetCeiling)?;
    }
    work.check_version(before.version)?;
    if let Some(Some(ceiling)) = &change.ceiling {
        let quota = quotas::read(work.connection(), id.0).await?.quota;
        check_ceiling(&quota, ceiling, |limit| match limit {
            Some(limit) => {
                let field = limit.field();
                let message =
                    format!("{field} of the quota in force is above this: lower it first");
                (format!("/ceiling/{field}"), message)
            }
            None => ("/ceiling".into(), "the quota is not enforced: enforce it first".into()),
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
    audit(work, seat, "project.update", (Some(&before), Some(&after))).await?;
    Ok(after)
}

/// Archives a project: its keys are refused from now on, its records stay.
pub async fn archive(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    id: ProjectId,
) -> Result<(), UseCaseError> {
    let found = projects::by_id(work.connection(), seat.organization.id, id).await?;
    let before = found.ok_or(UseCaseError::NotFound)?;
    seat.require_in_project(Action::ArchiveProject, id)?;
    if !before.active {
        return Err(UseCaseError::NotFound);
    }
    work.check_version(before.version)?;
    let now = work.now();
    let after = Project {
        active: false,
        archived_at: Some(now),
        updated_at: now,
        version: before.version + 1,
        ..before.clone()
    };
    projects::update(work.connection(), &after).await?;
    work.after_commit(Effect::Project(id));
    audit(work, seat, "project.archive", (Some(&before), Some(&after))).await
}

/// Checks that each limit of the ceiling is set in `quota`, not above the ceiling, and enforced.
///
/// `describe` returns the field and the message of the error: for a limit, or with `None` for the
/// enforcement of all limits.
pub fn check_ceiling(
    quota: &Quota,
    ceiling: &Limits,
    tell: impl Fn(Option<Limit>) -> (String, String),
) -> Result<(), UseCaseError> {
    let fits = |(limit, most)| quota.limits.get(limit).is_some_and(|value| value <= most);
    let above = ceiling.configured().filter(|named| !fits(*named)).map(|(limit, _)| Some(limit));
    let unenforced = (!quota.enforce && ceiling.configured().next().is_some()).then_some(None);
    let fault = |what| {
        let (param, message) = tell(what);
        FieldError::new(param, "above_ceiling", message)
    };
    let faults: Vec<FieldError> = above.chain(unenforced).map(fault).collect();
    if faults.is_empty() { Ok(()) } else { Err(UseCaseError::Invalid(faults)) }
}

async fn audit(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    action: &'static str,
    states: (Option<&Project>, Option<&Project>),
) -> Result<(), UseCaseError> {
    let (before, after) = states;
    let target = after.or(before).map(|project| (project.id.to_string(), project.name.clone()));
    let (id, name) = target.unwrap_or_default();
    let change = AuditChange {
        organization: Some(seat.organization.id),
        action: action.into(),
        target: ("project", id, name),
        before: before.map(audit_json),
        after: after.map(audit_json),
    };
    work.audit(&seat.principal.actor(), change).await
}

fn audit_json(project: &Project) -> Value {
    json!({
        "name": project.name,
        "description": project.description,
        "status": if project.active { "Active" } else { "Archived" },
        "allowedModels": project.allowed_models,
        "ceilingNano": project.ceiling.as_ref().map(quotas::limits_json),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_bounds_every_limit_that_it_names() {
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
        assert!(!fits(&quota(None), &ceiling), "no limit is above any");
        assert!(
            !fits(&Quota { enforce: false, ..quota(Some(10)) }, &ceiling),
            "nor one that counts"
        );
        assert!(fits(&Quota { enforce: false, ..quota(None) }, &Limits::default()));
    }
}
