//! `meteor demo`: runs a node, a fake provider and a seeded organization in one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::app::run;
use crate::config::environment::Environment;
use crate::demo::catalog::{DemoConfig, DemoUpstream};
use crate::demo::seed::SeededDemo;
use crate::demo::{catalog, provider, seed};
use crate::tasks;

/// Command line options of `meteor demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Print one line of JSON with addresses and secrets, then serve.
    #[arg(long)]
    pub json: bool,
    /// Store all data in this folder and continue from it at the next start [default: a temporary
    /// folder].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Port of the proxy [default: a free port].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub proxy_port: u16,
    /// Port of the admin API [default: a free port].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub admin_port: u16,
    /// Send all calls to this URL instead of the built-in provider.
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DemoInfo<'a> {
    proxy_url: String,
    admin_url: String,
    #[serde(flatten)]
    seeded: &'a SeededDemo,
    data_dir: String,
}

/// Runs the demo until a signal stops it.
pub async fn demo(options: DemoOptions) -> Result<()> {
    let temporary = match options.data {
        Some(_) => None,
        None => Some(seed::TemporaryFolder::new().context("cannot create a temporary folder")?),
    };
    let data = match (&options.data, &temporary) {
        (Some(data), _) => data.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => PathBuf::from("data"),
    };
    let provider = match options.upstream {
        Some(url) => DemoUpstream::Url(url),
        None => DemoUpstream::BuiltIn(start_provider().await?),
    };
    let (proxy_port, admin_port) = (options.proxy_port, options.admin_port);
    let setup = DemoConfig { data: data.clone(), proxy_port, admin_port, provider };
    let settings = catalog::settings(setup, &Environment::from_process())
        .map_err(|report| anyhow::anyhow!("{report}"))?;
    let running = run::start(settings, None).await?;
    let seeded = seed::seed(&running.platform, &data).await?;
    let printed = DemoInfo {
        proxy_url: format!("http://{}", running.node.proxy_address),
        admin_url: format!("http://{}", running.admin_address),
        seeded: &seeded,
        data_dir: data.display().to_string(),
    };
    if options.json {
        println!("{}", serde_json::to_string(&printed)?);
    } else {
        print_welcome(&printed);
    }
    running.run_until_signal().await
}

async fn start_provider() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tasks::spawn("provider", provider::serve(listener, std::future::pending::<()>()));
    Ok(address)
}

fn print_welcome(printed: &DemoInfo<'_>) {
    let DemoInfo { proxy_url, admin_url, seeded, data_dir } = printed;
    let SeededDemo { api_key, admin_token, .. } = seeded;
    println!(
        r#"Meteor Gateway, demo

  proxy    {proxy_url}
  admin    {admin_url}   (metrics at {admin_url}/metrics)
  data     {data_dir}
  API key  {api_key}

A first call, with the OpenAI API:

  curl {proxy_url}/v1/chat/completions \
    -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \
    -d '{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"Hello"}}]}}'

With the Anthropic API:

  curl {proxy_url}/v1/messages -H 'x-api-key: {api_key}' \
    -H 'anthropic-version: 2023-06-01' -H 'Content-Type: application/json' \
    -d '{{"model":"claude-haiku-4-5","max_tokens":200,"messages":[{{"role":"user","content":"Hello"}}]}}'

With the Gemini API:

  curl {proxy_url}/v1beta/models/gemini-2.5-flash:generateContent \
    -H 'x-goog-api-key: {api_key}' -H 'Content-Type: application/json' \
    -d '{{"contents":[{{"parts":[{{"text":"Hello"}}]}}]}}'

The cost of each call and the balance:

  curl {admin_url}/api/organization/wallet/records -H 'Authorization: Bearer {admin_token}'

Start a message with /slow 200ms, /tokens 50, /error 500 or /cut for other responses.
Press Ctrl-C to stop."#
    );
}
