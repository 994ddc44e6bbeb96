//! Access rules: one table of actions, and one pure function that evaluates it.

use crate::domain::roles::{Permission, ProjectRole, Role, Scope};

/// What a person or token wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// View one's own account and tokens.
    ViewAccount,
    /// Change one's own account and tokens.
    ChangeAccount,
    /// View the organizations, upstreams and prices of the deployment.
    ViewPlatform,
    /// Create organizations, reload the catalog and change prices.
    ChangePlatform,
    /// View the organization.
    ViewOrganization,
    /// Change the organization.
    ChangeOrganization,
    /// Set the limits that apply to all projects of the organization together.
    SetOrganizationQuota,
    /// View the usage of the organization.
    ViewOrganizationUsage,
    /// Create and revoke tokens that act for the organization.
    ManageTokens,
    /// View the balance and the holds.
    ViewWallet,
    /// View and export wallet records.
    ViewRecords,
    /// Recharge the wallet.
    Recharge,
    /// Refund the cost of a call.
    Refund,
    SwitchWallet,
    /// View the name and status of each project.
    ListProjects,
    /// View all fields of a project.
    ViewProject,
    CreateProject,
    ChangeProject,
    ArchiveProject,
    /// View the quota and the usage of a project.
    ViewQuota,
    /// Set the quota of a project.
    SetQuota,
    /// Set the ceiling: the highest limits that Owners may set.
    SetCeiling,
    /// View API keys.
    ViewKeys,
    /// Create, change, rotate and revoke API keys.
    ManageKeys,
    /// View the request log.
    ViewRequestLogs,
}

/// How many of the objects in question an action may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessLevel {
    None,
    /// Only objects that the person owns.
    Own,
    All,
}

/// Who may perform an action. The operator may perform every action.
#[derive(Debug, Clone, Copy)]
pub struct AccessRule {
    /// The scope that a token needs.
    pub scope: Scope,
    /// Whether an Admin of the organization may.
    pub admin: bool,
    /// The permission with which a Member of the organization may.
    pub permission: Option<Permission>,
    /// What an Owner of the project may access.
    pub owner: AccessLevel,
    /// What a Member of the project may access.
    pub project_member: AccessLevel,
    /// Whether every member of the organization may.
    pub member: bool,
    /// Whether the organization must be self-funding.
    pub self_funding: bool,
}

/// What a person or token was granted in an organization.
#[derive(Debug, Clone)]
pub struct Grants {
    /// True for an operator of the deployment.
    pub operator: bool,
    pub role: Role,
    pub permissions: Vec<Permission>,
    /// The scopes of the token; `None` if no token is used, so that scopes do not restrict.
    pub scopes: Option<Vec<Scope>>,
    /// Whether the organization recharges its own wallet.
    pub self_funding: bool,
}

/// Why an action is forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// The token lacks this scope.
    Scope(Scope),
    /// The role in the organization is `None`.
    NoRole,
    /// Only the operator may recharge the wallet of this organization.
    SelfFunding,
    /// This permission or role is missing.
    Permission(&'static str),
}

impl Action {
    /// Returns the access rule of this action.
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

    /// Decides what `grants` allow, in a project in which the person has the role `project`.
    pub fn authorize(
        self,
        grants: &Grants,
        project: Option<ProjectRole>,
    ) -> Result<AccessLevel, Forbidden> {
        let rule = self.rule();
        if grants.scopes.as_ref().is_some_and(|scopes| !scopes.contains(&rule.scope)) {
            return Err(Forbidden::Scope(rule.scope));
        }
        if grants.operator {
            return Ok(AccessLevel::All);
        }
        let has = |permission| grants.permissions.contains(&permission);
        let by_organization = match grants.role {
            Role::None => return Err(Forbidden::NoRole),
            Role::Admin => rule.admin,
            Role::Member => rule.member || rule.permission.is_some_and(has),
        };
        if by_organization && rule.self_funding && !grants.self_funding {
            return Err(Forbidden::SelfFunding);
        }
        let level = match project {
            _ if by_organization => AccessLevel::All,
            Some(ProjectRole::Owner) => rule.owner,
            Some(ProjectRole::Member) => rule.project_member,
            None => AccessLevel::None,
        };
        if level == AccessLevel::None {
            Err(Forbidden::Permission(rule.required_grant()))
        } else {
            Ok(level)
        }
    }
}

impl AccessRule {
    /// Returns the permission or role to name in the error.
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
    fn an_admin_may_do_everything_except_manage_the_platform() {
        let admin = member(Role::Admin, &[]);
        assert_eq!(Action::Refund.authorize(&admin, None), Ok(AccessLevel::All));
        assert_eq!(Action::ManageKeys.authorize(&admin, None), Ok(AccessLevel::All));
        assert_eq!(
            Action::ViewPlatform.authorize(&admin, None),
            Err(Forbidden::Permission("operator"))
        );
        let operator_funded = Grants { self_funding: false, ..admin };
        assert_eq!(Action::Recharge.authorize(&operator_funded, None), Err(Forbidden::SelfFunding));
        let operator = Grants { operator: true, ..operator_funded };
        assert_eq!(Action::Recharge.authorize(&operator, None), Ok(AccessLevel::All));
    }

    #[test]
    fn a_member_has_basic_actions_and_granted_permissions() {
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
    fn a_project_owner_manages_and_a_project_member_uses_a_project() {
        let plain = member(Role::Member, &[]);
        let (owner, project_member) = (Some(ProjectRole::Owner), Some(ProjectRole::Member));
        assert_eq!(Action::SetQuota.authorize(&plain, owner), Ok(AccessLevel::All));
        assert!(Action::SetCeiling.authorize(&plain, owner).is_err());
        assert!(Action::SetQuota.authorize(&plain, project_member).is_err());
        assert_eq!(Action::ManageKeys.authorize(&plain, project_member), Ok(AccessLevel::Own));
        assert_eq!(Action::ManageKeys.authorize(&plain, None), Err(Forbidden::Permission("Owner")));
        let none = member(Role::None, &[Permission::WalletView]);
        assert_eq!(Action::ManageKeys.authorize(&none, owner), Err(Forbidden::NoRole));
        assert_eq!(Action::ViewWallet.authorize(&none, None), Err(Forbidden::NoRole));
    }

    #[test]
    fn a_token_is_limited_to_its_scopes() {
        let scopes = Some(vec![Scope::WalletRead]);
        let token = Grants { scopes, operator: true, ..member(Role::Admin, &[]) };
        assert_eq!(Action::ViewWallet.authorize(&token, None), Ok(AccessLevel::All));
        let missing = Err(Forbidden::Scope(Scope::WalletWrite));
        assert_eq!(Action::Recharge.authorize(&token, None), missing);
    }
}
