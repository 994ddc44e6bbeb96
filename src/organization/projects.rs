//! Projects: made, changed and archived; their ledger stays.

use serde_json::{Value, json};

use crate::domain::ids::ProjectId;
use crate::domain::limit::{Limit, Limits};
use crate::domain::quota::Quota;
use crate::organization::access::Seat;
use crate::organization::denied::{Denied, Fault};
use crate::organization::platform::Platform;
use crate::organization::rights::{Reach, Right};
use crate::organization::roles::ProjectRole;
use crate::organization::work::{Change, Effect, Work};
use crate::store::columns::new_id;
use crate::store::paging::{Page, Sort};
use crate::store::projects::{self, Project};
use crate::store::{members, quotas};

/// A project to make.
#[derive(Debug, Default)]
pub struct NewProject {
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The organization, as the body names it.
    pub organization: Option<String>,
    /// Globs of the models it may use; `None` is all.
    pub allowed_models: Option<Vec<String>>,
    /// The most that its Owners may set.
    pub ceiling: Option<Limits>,
}

/// What to change of one. `None` leaves a field as it is.
#[derive(Debug, Default)]
pub struct ProjectChange {
    /// What it is called.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<Option<String>>,
    /// Globs of the models it may use.
    pub allowed_models: Option<Option<Vec<String>>>,
    /// The most that its Owners may set.
    pub ceiling: Option<Option<Limits>>,
}

/// Makes a project. A person who makes one owns it. Where it has a ceiling, its quota begins there.
pub async fn create(work: &mut Work, seat: &Seat, new: NewProject) -> Result<Project, Denied> {
    seat.may(Right::CreateProject)?;
    if new.ceiling.is_some() {
        seat.may(Right::SetCeiling)?;
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
    work.then(Effect::Project(project.id));
    audit(work, seat, "project.create", (None, Some(&project))).await?;
    Ok(project)
}

/// A page of the organization's projects, by part of the name and by status.
///
/// Whoever may not see all of one sees its name and status.
pub async fn list(
    platform: &Platform,
    seat: &Seat,
    filter: (Option<&str>, Option<&str>),
    page: Page,
    sort: Sort,
) -> Result<(Vec<Project>, i64), Denied> {
    seat.may(Right::ListProjects)?;
    let (reader, organization) = (platform.database.reader(), seat.organization.id);
    let (projects, total) = projects::list(reader, organization, filter, page, sort).await?;
    Ok((projects.into_iter().map(|project| shown(seat, project)).collect(), total))
}

/// One project.
pub async fn view(platform: &Platform, seat: &Seat, id: ProjectId) -> Result<Project, Denied> {
    let found = projects::by_id(platform.database.reader(), seat.organization.id, id).await?;
    let project = found.ok_or(Denied::NotFound)?;
    seat.may(Right::ListProjects)?;
    Ok(shown(seat, project))
}

fn shown(seat: &Seat, project: Project) -> Project {
    if seat.reach(Right::ViewProject, project.id).is_ok() {
        return project;
    }
    Project { description: None, template_id: None, allowed_models: None, ceiling: None, ..project }
}

/// Finds a project in which they may do that, and how much of it.
pub async fn open(
    platform: &Platform,
    seat: &Seat,
    id: ProjectId,
    right: Right,
) -> Result<(Project, Reach), Denied> {
    let found = projects::by_id(platform.database.reader(), seat.organization.id, id).await?;
    let project = found.ok_or(Denied::NotFound)?;
    let reach = seat.reach(right, id)?;
    Ok((project, reach))
}

/// Finds a project in which they may change that; an archived one does not change.
pub async fn open_to_change(
    work: &mut Work,
    seat: &Seat,
    id: ProjectId,
    right: Right,
) -> Result<(Project, Reach), Denied> {
    let found = projects::by_id(work.connection(), seat.organization.id, id).await?;
    let project = found.ok_or(Denied::NotFound)?;
    let reach = seat.reach(right, id)?;
    if !project.active {
        return Err(Denied::conflict("project_archived", "the project is archived"));
    }
    Ok((project, reach))
}

/// Changes a project.
pub async fn change(
    work: &mut Work,
    seat: &Seat,
    id: ProjectId,
    change: ProjectChange,
) -> Result<Project, Denied> {
    let only_ceiling = change.name.is_none()
        && change.description.is_none()
        && change.allowed_models.is_none()
        && change.ceiling.is_some();
    let right = if only_ceiling { Right::SetCeiling } else { Right::ChangeProject };
    let (before, _) = open_to_change(work, seat, id, right).await?;
    if change.ceiling.is_some() {
        seat.may(Right::SetCeiling)?;
    }
    work.expects(before.version)?;
    if let Some(Some(ceiling)) = &change.ceiling {
        let quota = quotas::read(work.connection(), id.0).await?.quota;
        refuse_above(&quota, ceiling, |limit| match limit {
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
    work.then(Effect::Project(id));
    audit(work, seat, "project.update", (Some(&before), Some(&after))).await?;
    Ok(after)
}

/// Archives a project: its keys open nothing any more, its ledger stays.
pub async fn archive(work: &mut Work, seat: &Seat, id: ProjectId) -> Result<(), Denied> {
    let found = projects::by_id(work.connection(), seat.organization.id, id).await?;
    let before = found.ok_or(Denied::NotFound)?;
    seat.reach(Right::ArchiveProject, id)?;
    if !before.active {
        return Err(Denied::NotFound);
    }
    work.expects(before.version)?;
    let now = work.now();
    let after = Project {
        active: false,
        archived_at: Some(now),
        updated_at: now,
        version: before.version + 1,
        ..before.clone()
    };
    projects::update(work.connection(), &after).await?;
    work.then(Effect::Project(id));
    audit(work, seat, "project.archive", (Some(&before), Some(&after))).await
}

/// Every limit that the ceiling names must be set, not be above it, and be enforced. `tell` gives
/// the field and the message: of a limit, or of the enforcement of all.
pub fn refuse_above(
    quota: &Quota,
    ceiling: &Limits,
    tell: impl Fn(Option<Limit>) -> (String, String),
) -> Result<(), Denied> {
    let fits = |(limit, most)| quota.limits.get(limit).is_some_and(|value| value <= most);
    let above = ceiling.set().filter(|named| !fits(*named)).map(|(limit, _)| Some(limit));
    let unenforced = (!quota.enforce && ceiling.set().next().is_some()).then_some(None);
    let fault = |what| {
        let (param, message) = tell(what);
        Fault::new(param, "above_ceiling", message)
    };
    let faults: Vec<Fault> = above.chain(unenforced).map(fault).collect();
    if faults.is_empty() { Ok(()) } else { Err(Denied::Invalid(faults)) }
}

async fn audit(
    work: &mut Work,
    seat: &Seat,
    action: &'static str,
    states: (Option<&Project>, Option<&Project>),
) -> Result<(), Denied> {
    let (before, after) = states;
    let target = after.or(before).map(|project| (project.id.to_string(), project.name.clone()));
    let (id, name) = target.unwrap_or_default();
    let change = Change {
        organization: Some(seat.organization.id),
        action: action.into(),
        target: ("project", id, name),
        before: before.map(picture),
        after: after.map(picture),
    };
    work.audit(&seat.principal.actor(), change).await
}

fn picture(project: &Project) -> Value {
    json!({
        "name": project.name,
        "description": project.description,
        "status": if project.active { "Active" } else { "Archived" },
        "allowedModels": project.allowed_models,
        "ceilingNano": project.ceiling.as_ref().map(quotas::json_of),
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
            refuse_above(quota, ceiling, |_| Default::default()).is_ok()
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
