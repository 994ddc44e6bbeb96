//! Rights: who may do what. One table, and one pure function that reads it.

use crate::organization::roles::{Permission, ProjectRole, Role, Scope};

/// Something that somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// See one's own account and tokens.
    ViewAccount,
    /// Change them.
    ChangeAccount,
    /// See the deployment's organizations.
    ViewPlatform,
    /// Make organizations.
    ChangePlatform,
    /// See the organization.
    ViewOrganization,
    /// Change it.
    ChangeOrganization,
    /// Set the limits of all its projects together.
    SetOrganizationQuota,
    /// See what it used.
    ViewOrganizationUsage,
    /// Make tokens that act for it.
    ManageTokens,
    /// See balance and holds.
    ViewWallet,
    /// See and export records.
    ViewRecords,
    /// Pay in.
    Recharge,
    /// Give a call's cost back.
    Refund,
    /// Switch the wallet on and off.
    SwitchWallet,
    /// See that projects exist, by name and status.
    ListProjects,
    /// See all of a project.
    ViewProject,
    /// Make projects.
    CreateProject,
    /// Change a project.
    ChangeProject,
    /// Archive it.
    ArchiveProject,
    /// See a quota and its usage.
    ViewQuota,
    /// Set it.
    SetQuota,
    /// Set the most that Owners may set.
    SetCeiling,
    /// See API keys.
    ViewKeys,
    /// Make, change, rotate and revoke them.
    ManageKeys,
    /// See the log of calls.
    ViewRequestLogs,
}

/// How much of a thing a right opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nothing.
    None,
    /// One's own only.
    Own,
    /// All of it.
    All,
}

/// One row of the table. The operator has every right.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// What a token must be scoped for.
    pub scope: Scope,
    /// Whether an Admin has it.
    pub admin: bool,
    /// The permission by which a Member has it.
    pub permission: Option<Permission>,
    /// What an Owner of the project has.
    pub owner: Reach,
    /// What a Member of the project has.
    pub project_member: Reach,
    /// Whether every member has it.
    pub member: bool,
    /// Whether the organization must pay for itself.
    pub self_funding: bool,
}

/// Who somebody is, as far as rights ask.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Whether they operate the deployment.
    pub operator: bool,
    /// Their role in the organization.
    pub role: Role,
    /// What they were granted.
    pub permissions: Vec<Permission>,
    /// What their token is scoped for; `None`: no token, no bound.
    pub scopes: Option<Vec<Scope>>,
    /// Whether the organization pays for itself.
    pub self_funding: bool,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The token is not scoped for it.
    Scope(Scope),
    /// The role is None.
    AnyRole,
    /// Only the operator pays in here.
    SelfFunding,
    /// This permission or role.
    Permission(&'static str),
}

impl Right {
    /// Its row.
    pub const fn rule(self) -> Rule {
        use Permission as P;
        use Reach::{All, None as Nothing, Own};
        use Scope as S;
        match self {
            Self::ViewAccount => everybody(S::AccountRead),
            Self::ChangeAccount => everybody(S::AccountWrite),
            Self::ViewPlatform => operator(S::PlatformRead),
            Self::ChangePlatform => operator(S::PlatformWrite),
            Self::ViewOrganization => everybody(S::OrganizationRead),
            Self::ChangeOrganization | Self::ManageTokens => admin(S::OrganizationWrite, None),
            Self::SetOrganizationQuota => admin(S::OrganizationWrite, Some(P::QuotaConfigure)),
            Self::ViewOrganizationUsage => admin(S::OrganizationRead, Some(P::WalletRecords)),
            Self::ViewWallet => admin(S::WalletRead, Some(P::WalletView)),
            Self::ViewRecords => admin(S::WalletRead, Some(P::WalletRecords)),
            Self::Recharge => funding(Some(P::WalletRecharge)),
            Self::Refund => funding(None),
            Self::SwitchWallet => admin(S::WalletWrite, None),
            Self::ListProjects => everybody(S::ProjectsRead),
            Self::ViewProject => project(S::ProjectsRead, Some(P::ProjectUpdate), All, All),
            Self::CreateProject => admin(S::ProjectsWrite, Some(P::ProjectCreate)),
            Self::ChangeProject => project(S::ProjectsWrite, Some(P::ProjectUpdate), All, Nothing),
            Self::ArchiveProject => project(S::ProjectsWrite, Some(P::ProjectDelete), All, Nothing),
            Self::ViewQuota => project(S::ProjectsRead, Some(P::QuotaConfigure), All, All),
            Self::SetQuota => project(S::ProjectsWrite, Some(P::QuotaConfigure), All, Nothing),
            Self::SetCeiling => admin(S::ProjectsWrite, Some(P::QuotaConfigure)),
            Self::ViewKeys => project(S::KeysRead, None, All, Own),
            Self::ManageKeys => project(S::KeysWrite, None, All, Own),
            Self::ViewRequestLogs => project(S::LogsRead, None, All, Own),
        }
    }

    /// What `standing` opens of it, in a project where they are `project`.
    pub fn reach(
        self,
        standing: &Standing,
        project: Option<ProjectRole>,
    ) -> Result<Reach, Missing> {
        let rule = self.rule();
        if standing.scopes.as_ref().is_some_and(|scopes| !scopes.contains(&rule.scope)) {
            return Err(Missing::Scope(rule.scope));
        }
        if standing.operator {
            return Ok(Reach::All);
        }
        let granted = |permission| standing.permissions.contains(&permission);
        let by_organization = match standing.role {
            Role::None => return Err(Missing::AnyRole),
            Role::Admin => rule.admin,
            Role::Member => rule.member || rule.permission.is_some_and(granted),
        };
        if by_organization && rule.self_funding && !standing.self_funding {
            return Err(Missing::SelfFunding);
        }
        let reach = match project {
            _ if by_organization => Reach::All,
            Some(ProjectRole::Owner) => rule.owner,
            Some(ProjectRole::Member) => rule.project_member,
            None => Reach::None,
        };
        if reach == Reach::None { Err(Missing::Permission(rule.missing())) } else { Ok(reach) }
    }
}

impl Rule {
    /// What to ask for, to whoever lacks the right.
    const fn missing(self) -> &'static str {
        match self.permission {
            Some(permission) => permission.name(),
            None if !matches!(self.owner, Reach::None) => "Owner",
            None if self.admin => "Admin",
            None => "operator",
        }
    }
}

const NOBODY: Rule = Rule {
    scope: Scope::PlatformWrite,
    admin: false,
    permission: None,
    owner: Reach::None,
    project_member: Reach::None,
    member: false,
    self_funding: false,
};

const fn operator(scope: Scope) -> Rule {
    Rule { scope, ..NOBODY }
}

const fn everybody(scope: Scope) -> Rule {
    Rule { scope, admin: true, member: true, ..NOBODY }
}

const fn admin(scope: Scope, permission: Option<Permission>) -> Rule {
    Rule { scope, admin: true, permission, ..NOBODY }
}

const fn funding(permission: Option<Permission>) -> Rule {
    Rule { self_funding: true, ..admin(Scope::WalletWrite, permission) }
}

const fn project(
    scope: Scope,
    permission: Option<Permission>,
    owner: Reach,
    project_member: Reach,
) -> Rule {
    Rule { owner, project_member, ..admin(scope, permission) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(role: Role, permissions: &[Permission]) -> Standing {
        let permissions = permissions.to_vec();
        Standing { operator: false, role, permissions, scopes: None, self_funding: true }
    }

    #[test]
    fn an_admin_may_all_but_the_platform() {
        let admin = member(Role::Admin, &[]);
        assert_eq!(Right::Refund.reach(&admin, None), Ok(Reach::All));
        assert_eq!(Right::ManageKeys.reach(&admin, None), Ok(Reach::All));
        assert_eq!(Right::ViewPlatform.reach(&admin, None), Err(Missing::Permission("operator")));
        let kept = Standing { self_funding: false, ..admin };
        assert_eq!(Right::Recharge.reach(&kept, None), Err(Missing::SelfFunding));
        let operator = Standing { operator: true, ..kept };
        assert_eq!(Right::Recharge.reach(&operator, None), Ok(Reach::All));
    }

    #[test]
    fn a_member_may_the_basics_and_what_was_granted() {
        let plain = member(Role::Member, &[]);
        assert_eq!(Right::ListProjects.reach(&plain, None), Ok(Reach::All));
        let missing = Err(Missing::Permission("wallet.view"));
        assert_eq!(Right::ViewWallet.reach(&plain, None), missing);
        let granted = member(Role::Member, &[Permission::WalletView, Permission::WalletRecharge]);
        assert_eq!(Right::ViewWallet.reach(&granted, None), Ok(Reach::All));
        assert_eq!(Right::Recharge.reach(&granted, None), Ok(Reach::All));
        assert_eq!(Right::Refund.reach(&granted, None), Err(Missing::Permission("Admin")));
        assert_eq!(Right::ViewOrganization.reach(&plain, None), Ok(Reach::All));
        let missing = Err(Missing::Permission("quota.configure"));
        assert_eq!(Right::SetOrganizationQuota.reach(&granted, None), missing);
        let granted = member(Role::Member, &[Permission::QuotaConfigure]);
        assert_eq!(Right::SetOrganizationQuota.reach(&granted, None), Ok(Reach::All));
        assert_eq!(Right::SetCeiling.reach(&granted, None), Ok(Reach::All));
    }

    #[test]
    fn in_a_project_an_owner_runs_it_and_a_member_uses_it() {
        let plain = member(Role::Member, &[]);
        let (owner, uses) = (Some(ProjectRole::Owner), Some(ProjectRole::Member));
        assert_eq!(Right::SetQuota.reach(&plain, owner), Ok(Reach::All));
        assert!(Right::SetCeiling.reach(&plain, owner).is_err());
        assert!(Right::SetQuota.reach(&plain, uses).is_err());
        assert_eq!(Right::ManageKeys.reach(&plain, uses), Ok(Reach::Own));
        assert_eq!(Right::ManageKeys.reach(&plain, None), Err(Missing::Permission("Owner")));
        let none = member(Role::None, &[Permission::WalletView]);
        assert_eq!(Right::ManageKeys.reach(&none, owner), Err(Missing::AnyRole));
        assert_eq!(Right::ViewWallet.reach(&none, None), Err(Missing::AnyRole));
    }

    #[test]
    fn a_token_may_no_more_than_its_scopes() {
        let scopes = Some(vec![Scope::WalletRead]);
        let token = Standing { scopes, operator: true, ..member(Role::Admin, &[]) };
        assert_eq!(Right::ViewWallet.reach(&token, None), Ok(Reach::All));
        let missing = Err(Missing::Scope(Scope::WalletWrite));
        assert_eq!(Right::Recharge.reach(&token, None), missing);
    }
}
