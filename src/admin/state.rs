//! What the admin API is made with.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::access::Cidr;
use crate::organization::services::Services;

/// How the admin API is set.
#[derive(Debug, Clone, Default)]
pub struct AdminApiSettings {
    /// Where people reach it, such as `https://gateway.example.com`.
    pub public_url: String,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
}

/// What every request sees.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// What the use cases work on.
    pub services: Arc<Services>,
    /// How it is set.
    pub settings: Arc<AdminApiSettings>,
    keys_in_progress: Arc<Mutex<HashSet<[u8; 32]>>>,
}

/// A request that runs under an idempotency key.
#[derive(Debug)]
pub struct IdempotencyGuard {
    state: AdminState,
    scope: [u8; 32],
}

impl AdminState {
    /// Puts the parts together.
    pub fn new(services: Arc<Services>, settings: AdminApiSettings) -> Self {
        Self { services, settings: Arc::new(settings), keys_in_progress: Arc::default() }
    }

    /// Enters a request; `None` while another runs under the same key.
    pub fn lock_key(&self, scope: [u8; 32]) -> Option<IdempotencyGuard> {
        let mut running = self.keys_in_progress.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(scope).then(|| IdempotencyGuard { state: self.clone(), scope })
    }

    /// Whether a browser may be told to send the cookie over TLS only.
    pub fn is_secure(&self) -> bool {
        self.settings.public_url.starts_with("https://")
    }
}

impl Drop for IdempotencyGuard {
    fn drop(&mut self) {
        let running = &self.state.keys_in_progress;
        running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.scope);
    }
}
