//! Settings of the demo: models at list prices, all served by one upstream.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::check::{Settings, read};
use crate::config::environment::Environment;
use crate::config::report::Report;
use crate::settings::upstream::BaseUrl;

/// Command-line options of a demo.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    /// Data folder.
    pub data: PathBuf,
    /// Port of the proxy; 0 picks a free port.
    pub proxy_port: u16,
    /// Port of the admin listener; 0 picks a free port.
    pub admin_port: u16,
    pub provider: DemoUpstream,
}

/// The upstream of all models.
#[derive(Debug, Clone)]
pub enum DemoUpstream {
    /// The built-in provider at this address. Serves only the listed models.
    BuiltIn(SocketAddr),
    /// An external upstream at this URL. Serves unknown models at a default price.
    Url(String),
}

const CATALOG: &str = include_str!("../../config/demo.toml");

/// Models in the order of the catalog.
pub const MODELS: [&str; 16] = [
    "gpt-4o-mini",
    "gpt-4o",
    "gpt-5-mini",
    "o4-mini",
    "gpt-3.5-turbo-instruct",
    "text-embedding-3-small",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
    "gemini-2.5-flash",
    "gemini-embedding-001",
    "gpt-image-1-mini",
    "dall-e-3",
    "gpt-4o-mini-tts",
    "gpt-4o-transcribe",
    "whisper-1",
    "omni-moderation-latest",
];

/// Returns the settings of a demo. The environment overrides the catalog, `config` overrides both.
pub fn settings(config: DemoConfig, environment: &Environment) -> Result<Settings, Report> {
    let DemoConfig { data, proxy_port, admin_port, provider } = config;
    let mut settings = read(CATALOG, environment)?;
    let localhost = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    settings.proxy_listen = localhost(proxy_port);
    settings.admin.listen = localhost(admin_port);
    settings.database = data.join("meteor.db");
    settings.data = data;
    let url = match provider {
        DemoUpstream::BuiltIn(address) => {
            settings.fallback = None;
            format!("http://{address}")
        }
        DemoUpstream::Url(url) => url,
    };
    let address =
        BaseUrl::parse(&url).map_err(|error| Report::of("--upstream", error.message()))?;
    for upstream in &mut settings.upstreams {
        upstream.address = address.clone();
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalog::Model;
    use crate::domain::money::Nano;
    use crate::domain::service_tier::ServiceTier;
    use crate::domain::time::UnixMs;
    use crate::domain::usage::{Unit, Usage};

    fn config(provider: DemoUpstream) -> DemoConfig {
        DemoConfig { data: PathBuf::from("/somewhere"), proxy_port: 0, admin_port: 7, provider }
    }

    fn demo(provider: DemoUpstream) -> Settings {
        let settings = settings(config(provider), &Environment::default());
        settings.unwrap_or_else(|report| panic!("{report}"))
    }

    fn cost(model: &Model, usage: &Usage) -> Nano {
        let tariff = model.targets[0].schedule.effective_at(UnixMs(0));
        tariff.cost(usage, ServiceTier::DEFAULT)
    }

    #[test]
    fn the_built_in_provider_serves_the_listed_models_only() {
        let demo = demo(DemoUpstream::BuiltIn(SocketAddr::from(([127, 0, 0, 1], 4321))));
        let names: Vec<&str> = demo.models.iter().map(|model| &*model.name).collect();
        assert_eq!(names, MODELS);
        assert!(demo.fallback.is_none());
        assert_eq!(demo.upstreams[0].address.to_string(), "http://127.0.0.1:4321");
        assert!(demo.models.iter().all(|model| model.targets.len() == 1));
        assert_eq!((demo.proxy_listen.port(), demo.admin.listen.port()), (0, 7));
        assert_eq!(demo.database.to_str(), Some("/somewhere/meteor.db"));
    }

    #[test]
    fn an_external_upstream_serves_every_model() {
        let demo = demo(DemoUpstream::Url("http://10.0.0.1:9/x".into()));
        let fallback = demo.fallback.expect("a default price");
        assert!(0 < cost(&fallback, &Usage::from_tokens(1, 1)).0);
        assert_eq!(demo.upstreams[0].address.path_prefix, "/x");
        let wrong = settings(config(DemoUpstream::Url("10.0.0.1".into())), &Environment::default());
        let report = wrong.expect_err("no scheme").to_string();
        assert!(report.starts_with("--upstream: "), "{report}");
    }

    #[test]
    fn prices_match_the_price_list() {
        let demo = demo(DemoUpstream::Url("http://x".into()));
        let cost = |name: &str, usage: Usage| {
            let model = demo.models.iter().find(|model| &*model.name == name).expect("listed");
            cost(model, &usage)
        };
        let million = Usage::from_tokens(1_000_000, 1_000_000);
        assert_eq!(cost("gpt-4o-mini", million), Nano(750_000_000));
        assert_eq!(cost("text-embedding-3-small", million), Nano(20_000_000));
        let written = Usage::from_tokens(100_000, 0)
            .with(Unit::CacheWriteTokens, 100_000)
            .with(Unit::CacheWrite5mTokens, 50_000)
            .with(Unit::CacheWrite1hTokens, 50_000);
        assert_eq!(cost("claude-sonnet-4-5", written), Nano(487_500_000));
    }
}
