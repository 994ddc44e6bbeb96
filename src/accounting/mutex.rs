//! The mutex of the live state: that of `std`, or that of `shuttle` in interleaving tests.

#[cfg(not(feature = "interleave"))]
pub type Mutex<T> = std::sync::Mutex<T>;

#[cfg(feature = "interleave")]
pub type Mutex<T> = shuttle::sync::Mutex<T>;

#[cfg(not(feature = "interleave"))]
pub type MutexGuard<'a, T> = std::sync::MutexGuard<'a, T>;

#[cfg(feature = "interleave")]
pub type MutexGuard<'a, T> = shuttle::sync::MutexGuard<'a, T>;
