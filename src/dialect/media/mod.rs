//! Images and audio in the OpenAI dialect: what is asked for, and what it uses.

pub mod audio_duration;
pub mod request;
pub mod usage;
pub mod meter;
