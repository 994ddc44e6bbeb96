//! Initializes the process log: standard error, as JSON or as text.

use tracing_subscriber::EnvFilter;

use crate::settings::log::{LogFormat, LogSettings};

/// Initializes the log. `RUST_LOG` overrides the settings per module.
pub fn init(settings: &LogSettings) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(settings.level.name()));
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    let begun = match settings.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.try_init(),
    };
    if let Err(fault) = begun {
        eprintln!("the log is already initialized: {fault}");
    }
}
