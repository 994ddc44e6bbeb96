//! Admission as a whole, without a wire.

mod scene;
mod near;
mod wake;
mod throng;
#[cfg(feature = "interleave")]
mod interleave;
