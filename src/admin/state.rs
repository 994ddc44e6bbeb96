//! What the admin API is made with.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::access::Cidr;
use crate::organization::platform::Platform;

/// How the admin API is set.
#[derive(Debug, Clone, Default)]
pub struct AdminSettings {
    /// Where people reach it, such as `https://gateway.example.com`.
    pub public_url: String,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
}

/// What every request sees.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// What the use cases work on.
    pub platform: Arc<Platform>,
    /// How it is set.
    pub settings: Arc<AdminSettings>,
    running: Arc<Mutex<HashSet<[u8; 32]>>>,
}

/// A request that runs under an idempotency key.
#[derive(Debug)]
pub struct Running {
    state: AdminState,
    scope: [u8; 32],
}

impl AdminState {
    /// Puts the parts together.
    pub fn new(platform: Arc<Platform>, settings: AdminSettings) -> Self {
        Self { platform, settings: Arc::new(settings), running: Arc::default() }
    }

    /// Enters a request; `None` while another runs under the same key.
    pub fn enter(&self, scope: [u8; 32]) -> Option<Running> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(scope).then(|| Running { state: self.clone(), scope })
    }

    /// Whether a browser may be told to send the cookie over TLS only.
    pub fn is_secure(&self) -> bool {
        self.settings.public_url.starts_with("https://")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let running = &self.state.running;
        running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.scope);
    }
}
