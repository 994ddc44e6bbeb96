//! Roles, permissions, token scopes and token kinds: the terms in which access is granted.

use crate::domain::named_enum::named_enum;

named_enum! {
    /// The role of a member in an organization.
    Role {
        /// Has every permission.
        Admin "Admin",
        /// Has the basic rights and the permissions that were granted.
        Member "Member",
        /// Has no rights.
        None "None",
    }

    /// The role of a member in a project.
    ProjectRole {
        /// Manages the project.
        Owner "Owner",
        /// Uses the project.
        Member "Member",
    }

    /// A permission that can be granted to a `Member` of an organization.
    Permission {
        /// Create projects.
        ProjectCreate "project.create",
        /// Change projects and their members.
        ProjectUpdate "project.update",
        /// Archive projects.
        ProjectDelete "project.delete",
        /// Add members.
        MemberInvite "member.invite",
        /// Change the roles of members.
        MemberUpdate "member.update",
        /// Remove members.
        MemberRemove "member.remove",
        /// View the balance and the holds.
        WalletView "wallet.view",
        /// Recharge the wallet.
        WalletRecharge "wallet.recharge",
        /// View the wallet records.
        WalletRecords "wallet.records",
        /// Set limits.
        QuotaConfigure "quota.configure",
        /// Create invite tokens.
        InviteConfigure "invite.configure",
    }

    /// What an admin token may be used for, whatever rights its creator has.
    Scope {
        /// View the creator's account and tokens.
        AccountRead "account.read",
        /// Change the creator's account and tokens.
        AccountWrite "account.write",
        /// View the organization and its members.
        OrganizationRead "organization.read",
        /// Change the organization and its members.
        OrganizationWrite "organization.write",
        /// View projects and quotas.
        ProjectsRead "projects.read",
        /// Change projects and quotas.
        ProjectsWrite "projects.write",
        /// View API keys.
        KeysRead "keys.read",
        /// Create, change and revoke API keys.
        KeysWrite "keys.write",
        /// View the wallet, its records and holds.
        WalletRead "wallet.read",
        /// Recharge, refund, and switch the wallet on and off.
        WalletWrite "wallet.write",
        /// View request logs and usage.
        LogsRead "logs.read",
        /// View the platform.
        PlatformRead "platform.read",
        /// Change the platform.
        PlatformWrite "platform.write",
    }

    /// On whose behalf an admin token acts.
    TokenKind {
        /// Its creator.
        Personal "Personal",
        /// An `Admin` of its organization, even after its creator has left.
        Organization "Organization",
        /// The operator.
        Platform "Platform",
    }

    /// Who performed an audited change.
    ActorKind {
        /// A user who is not an operator.
        User "User",
        /// An operator.
        Operator "Operator",
        /// An admin token.
        Token "Token",
        /// The gateway process itself.
        System "System",
    }
}

impl Scope {
    /// Returns true for scopes that allow changes.
    pub fn allows_changes(self) -> bool {
        self.name().rsplit_once('.').is_some_and(|(_, verb)| verb == "write")
    }
}
