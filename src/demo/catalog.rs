//! The settings of the demo: models at their list prices, all at one upstream.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::check::{Settings, read};
use crate::config::environment::Environment;
use crate::config::report::Report;
use crate::settings::upstream::BaseUrl;

/// Where a demo plays.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    /// Where everything is kept.
    pub data: PathBuf,
    /// The proxy's port; 0 is a free one.
    pub proxy_port: u16,
    /// The admin listener's port; 0 is a free one.
    pub admin_port: u16,
    /// Who answers.
    pub provider: DemoUpstream,
}

/// Who answers the calls of a demo.
#[derive(Debug, Clone)]
pub enum DemoUpstream {
    /// The built-in provider, which listens there. Only the listed models are served.
    BuiltIn(SocketAddr),
    /// Whoever is at this address. Unknown names of models are served at a default price.
    Url(String),
}

const CATALOG: &str = include_str!("../../config/demo.toml");

/// The listed models, in the order of the catalog.
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

/// The settings of a demo. Keys that `environment` sets win over the catalog, the stage over both.
pub fn settings(stage: DemoConfig, environment: &Environment) -> Result<Settings, Report> {
    let DemoConfig { data, proxy_port, admin_port, provider } = stage;
    let mut settings = read(CATALOG, environment)?;
    let here = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    settings.proxy_listen = here(proxy_port);
    settings.admin.listen = here(admin_port);
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
        BaseUrl::parse(&url).map_err(|fault| Report::of("--upstream", fault.message()))?;
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

    fn stage(provider: DemoUpstream) -> DemoConfig {
        DemoConfig { data: PathBuf::from("/somewhere"), proxy_port: 0, admin_port: 7, provider }
    }

    fn demo(provider: DemoUpstream) -> Settings {
        let settings = settings(stage(provider), &Environment::default());
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
    fn another_upstream_serves_every_name() {
        let demo = demo(DemoUpstream::Url("http://10.0.0.1:9/x".into()));
        let fallback = demo.fallback.expect("a default price");
        assert!(0 < cost(&fallback, &Usage::from_tokens(1, 1)).0);
        assert_eq!(demo.upstreams[0].address.path_prefix, "/x");
        let wrong = settings(stage(DemoUpstream::Url("10.0.0.1".into())), &Environment::default());
        let report = wrong.expect_err("no scheme").to_string();
        assert!(report.starts_with("--upstream: "), "{report}");
    }

    #[test]
    fn prices_are_those_of_the_lists() {
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
