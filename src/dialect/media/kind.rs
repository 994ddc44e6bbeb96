//! What an endpoint produces or reads that is not text.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// The output is images.
    Images,
    /// The output is audio.
    Speech,
    /// The input is audio.
    Transcription,
}
