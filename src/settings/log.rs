//! What is logged, and in which form.

/// The log, as it was configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// What is too small to be logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// Whether each call is a line.
    pub calls: bool,
}

/// The least that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What a person must look at.
    Error,
    /// What a person should know of.
    Warn,
    /// What happens.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level by its name.
    pub const NAMES: &[(&str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// Its name, which is also a filter directive.
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

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

impl LogFormat {
    /// Every format by its name.
    pub const NAMES: &[(&str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
}
