//! Settings and shared state of the admin API.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::access::Cidr;
use crate::organization::services::Services;

#[derive(Debug, Clone, Default)]
pub struct AdminApiSettings {
    /// URL of the admin API as clients see it, such as `https://gateway.example.com`.
    pub public_url: String,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<Cidr>,
}

/// State shared by all requests.
#[derive(Debug, Clone)]
pub struct AdminState {
    pub services: Arc<Services>,
    pub settings: Arc<AdminApiSettings>,
    keys_in_progress: Arc<Mutex<HashSet<[u8; 32]>>>,
}

/// Locks an idempotency key until it is dropped.
#[derive(Debug)]
pub struct IdempotencyGuard {
    state: AdminState,
    scope: [u8; 32],
}

impl AdminState {
    pub fn new(services: Arc<Services>, settings: AdminApiSettings) -> Self {
        Self { services, settings: Arc::new(settings), keys_in_progress: Arc::default() }
    }

    /// Locks an idempotency key; `None` while another request holds it.
    pub fn lock_key(&self, scope: [u8; 32]) -> Option<IdempotencyGuard> {
        let mut running = self.keys_in_progress.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(scope).then(|| IdempotencyGuard { state: self.clone(), scope })
    }

    /// Whether browsers reach the API by HTTPS, so that the cookie can be `Secure`.
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
