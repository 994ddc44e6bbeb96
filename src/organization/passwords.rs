//! Password hashing with Argon2, on blocking threads, a few at a time.

use std::sync::{Arc, OnceLock};

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

use crate::organization::error::UseCaseError;
use crate::settings::secret::Secret;

/// How many hashes may be computed at once: each takes 19 MiB and one core.
const CONCURRENT_HASHES_MAX: usize = 2;

/// The permitted length of a password, in characters.
pub const LENGTH_RANGE: std::ops::RangeInclusive<usize> = 10..=128;

/// The password hasher.
#[derive(Debug, Clone)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// A hash that is verified if the user is unknown, so that the response time does not reveal
    /// whether a user exists.
    decoy: Arc<OnceLock<String>>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(CONCURRENT_HASHES_MAX)), decoy: Arc::default() }
    }
}

impl Passwords {
    /// Hashes a new password.
    pub async fn hash(&self, password: Secret) -> Result<String, UseCaseError> {
        self.run(move || hash_blocking(&password)).await?
    }

    /// Returns whether `password` matches `hash`; false if there is no hash.
    pub async fn verify(
        &self,
        password: Secret,
        hash: Option<String>,
    ) -> Result<bool, UseCaseError> {
        let decoy = Arc::clone(&self.decoy);
        self.run(move || {
            let has_password = hash.is_some();
            let decoy = || {
                decoy.get_or_init(|| hash_blocking(&Secret::new("-".into())).unwrap_or_default())
            };
            let hash = hash.unwrap_or_else(|| decoy().clone());
            let verified = Argon2::default().verify_password(password.expose().as_bytes(), &*hash);
            has_password && verified.is_ok()
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, UseCaseError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit =
            permit.map_err(|_| UseCaseError::Internal("the password hasher is closed".into()))?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        done.await.map_err(|error| UseCaseError::Internal(error.to_string()))
    }
}

fn hash_blocking(password: &Secret) -> Result<String, UseCaseError> {
    let hash = Argon2::default().hash_password(password.expose().as_bytes());
    Ok(hash.map_err(|error| UseCaseError::Internal(error.to_string()))?.to_string())
}
