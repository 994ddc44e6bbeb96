//! Roles, permissions and scopes: the words that rights are made of.

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $word:ident $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$of])* $word,)* }

        impl $name {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$word,)*];

            /// Every one's word.
            pub const NAMES: &[&str] = &[$($text,)*];

            /// The word in the API and in SQL.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$word => $text,)* }
            }

            /// Reads what `name` writes.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|word| word.name() == name)
            }
        }
    )*};
}

words! {
    /// What a member is in an organization.
    Role {
        /// Has all permissions.
        Admin "Admin",
        /// Has the basics and what was granted.
        Member "Member",
        /// Has nothing.
        None "None",
    }

    /// What a member is in a project.
    ProjectRole {
        /// Runs it.
        Owner "Owner",
        /// Uses it.
        Member "Member",
    }

    /// What can be granted to a Member of an organization.
    Permission {
        /// Make projects.
        ProjectCreate "project.create",
        /// Change projects and their members.
        ProjectUpdate "project.update",
        /// Archive projects.
        ProjectDelete "project.delete",
        /// Add people.
        MemberInvite "member.invite",
        /// Change roles of people.
        MemberUpdate "member.update",
        /// Remove people.
        MemberRemove "member.remove",
        /// See the balance and what is held.
        WalletView "wallet.view",
        /// Pay in.
        WalletRecharge "wallet.recharge",
        /// See the records.
        WalletRecords "wallet.records",
        /// Set limits.
        QuotaConfigure "quota.configure",
        /// Make invite tokens.
        InviteConfigure "invite.configure",
    }

    /// What an admin token may be used for, whatever its owner may do.
    Scope {
        /// Look at one's own account and tokens.
        AccountRead "account.read",
        /// Change them.
        AccountWrite "account.write",
        /// Look at the organization and its members.
        OrganizationRead "organization.read",
        /// Change them.
        OrganizationWrite "organization.write",
        /// Look at projects and quotas.
        ProjectsRead "projects.read",
        /// Change them.
        ProjectsWrite "projects.write",
        /// Look at API keys.
        KeysRead "keys.read",
        /// Make, change and revoke them.
        KeysWrite "keys.write",
        /// Look at wallet, records and holds.
        WalletRead "wallet.read",
        /// Pay in, refund, switch.
        WalletWrite "wallet.write",
        /// Look at request logs and usage.
        LogsRead "logs.read",
        /// Look at the platform.
        PlatformRead "platform.read",
        /// Change it.
        PlatformWrite "platform.write",
    }

    /// What an admin token acts as.
    TokenKind {
        /// Its maker.
        Personal "Personal",
        /// An Admin of its organization, also when its maker has left.
        Organization "Organization",
        /// The operator.
        Platform "Platform",
    }
}

impl Scope {
    /// Whether using it changes something.
    pub fn changes(self) -> bool {
        self.name().rsplit_once('.').is_some_and(|(_, verb)| verb == "write")
    }
}
