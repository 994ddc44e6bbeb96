//! Settings of the admin listener and its first operator.

use std::net::SocketAddr;

use crate::settings::secret::Secret;

/// Settings of the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminListenerSettings {
    pub listen: SocketAddr,
    /// The public base URL for links, without a trailing slash.
    pub public_url: Option<String>,
    /// The operator account to create at the first start. If `None`, a setup link is printed.
    pub operator: Option<Operator>,
}

/// The first operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The sign-in name.
    pub email: String,
    /// 10 to 128 characters.
    pub password: Secret,
}
