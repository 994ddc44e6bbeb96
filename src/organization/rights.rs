//! Rights: who may do what. One table, and one pure function that reads it.

use crate::organization::roles::{Permission, ProjectRole, Role, Scope};

/// Something that somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
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
pub enum AccessLevel {
    /// Nothing.
    None,
    /// One's own only.
    Own,
    /// All of it.
    All,
}

/// One row of the table. The operator has every right.
#[derive(Debug, Clone, Copy)]
pub struct AccessRule {
    /// What a token must be scoped for.
    pub scope: Scope,
    /// Whether an Admin has it.
    pub admin: bool,
    /// The permission by which a Member has it.
    pub permission: Option<Permission>,
    /// What an Owner of the project has.
    pub owner: AccessLevel,
    /// What a Member of the project has.
    pub project_member: AccessLevel,
    /// Whether every member has it.
    pub member: bool,
    /// Whether the organization must pay for itself.
    pub self_funding: bool,
}

/// Who somebody is, as far as rights ask.
#[derive(Debug, Clone)]
pub struct Grants {
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
pub enum Forbidden {
    /// The token is not scoped for it.
    Scope(Scope),
    /// The role is None.
    NoRole,
    /// Only the operator pays in here.
    SelfFunding,
    /// This permission or role.
    Permission(&'static str),
}

impl Action {
    /// Its row.
    pub const fn rule(self) -> AccessRule {
        use AccessLevel::{All, None as Nothing, Own};
        use Permission as P;
        use Scope as S;
        match self {
            Self::ViewAccount => every_member(S::AccountRead),
            Self::ChangeAccount => every_member(S::AccountWrite),
            Self::ViewPlatform => operator(S::PlatformRead),
            Self::ChangePlatform => operator(S::PlatformWrite),
            Self::ViewOrganization => every_member(S::OrganizationRead),
            Self::ChangeOrganization | Self::ManageTokens => admin(S::OrganizationWrite, None),
            Self::SetOrganizationQuota => admin(S::OrganizationWrite, Some(P::QuotaConfigure)),
            Self::ViewOrganizationUsage => admin(S::OrganizationRead, Some(P::WalletRecords)),
            Self::ViewWallet => admin(S::WalletRead, Some(P::WalletView)),
            Self::ViewRecords => admin(S::WalletRead, Some(P::WalletRecords)),
            Self::Recharge => funding(Some(P::WalletRecharge)),
            Self::Refund => funding(None),
            Self::SwitchWallet => admin(S::WalletWrite, None),
            Self::ListProjects => every_member(S::ProjectsRead),
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
    pub fn authorize(
        self,
        standing: &Grants,
        project: Option<ProjectRole>,
    ) -> Result<AccessLevel, Forbidden> {
        let rule = self.rule();
        if standing.scopes.as_ref().is_some_and(|scopes| !scopes.contains(&rule.scope)) {
            return Err(Forbidden::Scope(rule.scope));
        }
        if standing.operator {
            return Ok(AccessLevel::All);
        }
        let granted = |permission| standing.permissions.contains(&permission);
        let by_organization = match standing.role {
            Role::None => return Err(Forbidden::NoRole),
            Role::Admin => rule.admin,
            Role::Member => rule.member || rule.permission.is_some_and(granted),
        };
        if by_organization && rule.self_funding && !standing.self_funding {
            return Err(Forbidden::SelfFunding);
        }
        let reach = match project {
            _ if by_organization => AccessLevel::All,
            Some(ProjectRole::Owner) => rule.owner,
            Some(ProjectRole::Member) => rule.project_member,
            None => AccessLevel::None,
        };
        if reach == AccessLevel::None {
            Err(Forbidden::Permission(rule.required_grant()))
        } else {
            Ok(reach)
        }
    }
}

impl AccessRule {
    /// What to ask for, to whoever lacks the right.
    const fn required_grant(self) -> &'static str {
        match self.permission {
            Some(permission) => permission.name(),
            None if !matches!(self.owner, AccessLevel::None) => "Owner",
            None if self.admin => "Admin",
            None => "operator",
        }
    }
}

const OPERATOR_ONLY: AccessRule = AccessRule {
    scope: Scope::PlatformWrite,
    admin: false,
    permission: None,
    owner: AccessLevel::None,
    project_member: AccessLevel::None,
    member: false,
    self_funding: false,
};

const fn operator(scope: Scope) -> AccessRule {
    AccessRule { scope, ..OPERATOR_ONLY }
}

const fn every_member(scope: Scope) -> AccessRule {
    AccessRule { scope, admin: true, member: true, ..OPERATOR_ONLY }
}

const fn admin(scope: Scope, permission: Option<Permission>) -> AccessRule {
    AccessRule { scope, admin: true, permission, ..OPERATOR_ONLY }
}

const fn funding(permission: Option<Permission>) -> AccessRule {
    AccessRule { self_funding: true, ..admin(Scope::WalletWrite, permission) }
}

const fn project(
    scope: Scope,
    permission: Option<Permission>,
    owner: AccessLevel,
    project_member: AccessLevel,
) -> AccessRule {
    AccessRule { owner, project_member, ..admin(scope, permission) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(role: Role, permissions: &[Permission]) -> Grants {
        let permissions = permissions.to_vec();
        Grants { operator: false, role, permissions, scopes: None, self_funding: true }
    }

    #[test]
    fn an_admin_may_all_but_the_platform() {
        let admin = member(Role::Admin, &[]);
        assert_eq!(Action::Refund.authorize(&admin, None), Ok(AccessLevel::All));
        assert_eq!(Action::ManageKeys.authorize(&admin, None), Ok(AccessLevel::All));
        assert_eq!(
            Action::ViewPlatform.authorize(&admin, None),
            Err(Forbidden::Permission("operator"))
        );
        let kept = Grants { self_funding: false, ..admin };
        assert_eq!(Action::Recharge.authorize(&kept, None), Err(Forbidden::SelfFunding));
        let operator = Grants { operator: true, ..kept };
        assert_eq!(Action::Recharge.authorize(&operator, None), Ok(AccessLevel::All));
    }

    #[test]
    fn a_member_may_the_basics_and_what_was_granted() {
        let plain = member(Role::Member, &[]);
        assert_eq!(Action::ListProjects.authorize(&plain, None), Ok(AccessLevel::All));
        let missing = Err(Forbidden::Permission("wallet.view"));
        assert_eq!(Action::ViewWallet.authorize(&plain, None), missing);
        let granted = member(Role::Member, &[Permission::WalletView, Permission::WalletRecharge]);
        assert_eq!(Action::ViewWallet.authorize(&granted, None), Ok(AccessLevel::All));
        assert_eq!(Action::Recharge.authorize(&granted, None), Ok(AccessLevel::All));
        assert_eq!(Action::Refund.authorize(&granted, None), Err(Forbidden::Permission("Admin")));
        assert_eq!(Action::ViewOrganization.authorize(&plain, None), Ok(AccessLevel::All));
        let missing = Err(Forbidden::Permission("quota.configure"));
        assert_eq!(Action::SetOrganizationQuota.authorize(&granted, None), missing);
        let granted = member(Role::Member, &[Permission::QuotaConfigure]);
        assert_eq!(Action::SetOrganizationQuota.authorize(&granted, None), Ok(AccessLevel::All));
        assert_eq!(Action::SetCeiling.authorize(&granted, None), Ok(AccessLevel::All));
    }

    #[test]
    fn in_a_project_an_owner_runs_it_and_a_member_uses_it() {
        let plain = member(Role::Member, &[]);
        let (owner, uses) = (Some(ProjectRole::Owner), Some(ProjectRole::Member));
        assert_eq!(Action::SetQuota.authorize(&plain, owner), Ok(AccessLevel::All));
        assert!(Action::SetCeiling.authorize(&plain, owner).is_err());
        assert!(Action::SetQuota.authorize(&plain, uses).is_err());
        assert_eq!(Action::ManageKeys.authorize(&plain, uses), Ok(AccessLevel::Own));
        assert_eq!(Action::ManageKeys.authorize(&plain, None), Err(Forbidden::Permission("Owner")));
        let none = member(Role::None, &[Permission::WalletView]);
        assert_eq!(Action::ManageKeys.authorize(&none, owner), Err(Forbidden::NoRole));
        assert_eq!(Action::ViewWallet.authorize(&none, None), Err(Forbidden::NoRole));
    }

    #[test]
    fn a_token_may_no_more_than_its_scopes() {
        let scopes = Some(vec![Scope::WalletRead]);
        let token = Grants { scopes, operator: true, ..member(Role::Admin, &[]) };
        assert_eq!(Action::ViewWallet.authorize(&token, None), Ok(AccessLevel::All));
        let missing = Err(Forbidden::Scope(Scope::WalletWrite));
        assert_eq!(Action::Recharge.authorize(&token, None), missing);
    }
}
