//! The lock of the books: that of `std`, or one under a scheduler that tries interleavings.

/// Guards a page of a book.
#[cfg(not(feature = "interleave"))]
pub type Mutex<T> = std::sync::Mutex<T>;

/// Guards a page of a book.
#[cfg(feature = "interleave")]
pub type Mutex<T> = shuttle::sync::Mutex<T>;

/// Whoever has it is alone on that page.
#[cfg(not(feature = "interleave"))]
pub type MutexGuard<'a, T> = std::sync::MutexGuard<'a, T>;

/// Whoever has it is alone on that page.
#[cfg(feature = "interleave")]
pub type MutexGuard<'a, T> = shuttle::sync::MutexGuard<'a, T>;
