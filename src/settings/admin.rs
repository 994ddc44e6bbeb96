//! How the admin listener is reached, and who its first operator is.

use std::net::SocketAddr;

use crate::settings::secret::Secret;

/// The admin listener, as it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminListenerSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How people reach it, for links; without a slash at its end.
    pub public_url: Option<String>,
    /// The operator to make at the first start; without one a set-up link is printed.
    pub operator: Option<Operator>,
}

/// The first operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// How they sign in.
    pub email: String,
    /// Their password, 10 to 128 characters.
    pub password: Secret,
}
