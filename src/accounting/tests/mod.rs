//! Admission as a whole, without a wire.

mod scene;
mod admission;
mod waiting;
mod leaving;
mod opening;
mod books;
mod wake;
mod throng;
#[cfg(feature = "interleave")]
mod interleave;
