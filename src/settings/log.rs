//! Settings of the log.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The minimum severity of logged events.
    pub level: LogLevel,
    pub format: LogFormat,
    /// Whether the call log is written.
    pub calls: bool,
}

/// The minimum severity of logged events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Requires action.
    Error,
    /// May require attention.
    Warn,
    /// Normal operation.
    Info,
    /// Details for troubleshooting.
    Debug,
    Trace,
}

impl LogLevel {
    pub const NAMES: &[(&str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// Returns the name, which is also a filter directive.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Human-readable text.
    Text,
}

impl LogFormat {
    pub const NAMES: &[(&str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
}
