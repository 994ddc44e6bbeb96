//! Images and audio in the OpenAI dialect: the requests, and the usage that responses report.

pub mod kind;
pub mod audio_duration;
pub mod request;
pub mod usage;
