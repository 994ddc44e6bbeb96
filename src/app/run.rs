//! Runs a node and its admin listener, from the start until a signal stops them.

use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::router::router;
use crate::admin::state::{AdminApiSettings, AdminState};
use crate::app::node::Node;
use crate::config::check::Settings;
use crate::organization::bootstrap::{self, FirstStart, NewOperator};
use crate::organization::catalog;
use crate::organization::services::{DeploymentSettings, Services};
use crate::tasks;
use crate::telemetry::metric;

/// A running node with its admin listener.
pub struct Running {
    pub admin_address: SocketAddr,
    pub platform: Arc<Services>,
    pub node: Node,
    /// Whether there is a configuration file to reload.
    has_file: bool,
    stop_admin: oneshot::Sender<()>,
    consistency_monitor: JoinHandle<()>,
}

/// Starts a node and its admin listener. `file` is read again at a reload.
pub async fn start(settings: Settings, file: Option<PathBuf>) -> Result<Running> {
    let metrics = metric::install().context("cannot install the metrics recorder")?;
    let listener = TcpListener::bind(settings.admin.listen)
        .await
        .with_context(|| format!("cannot listen on the admin address {}", settings.admin.listen))?;
    let admin_address = listener.local_addr().context("cannot read the admin address")?;
    let admin_settings = AdminApiSettings {
        public_url: public_url(&settings, admin_address),
        trusted_proxies: Vec::new(),
    };
    let (currency, has_file) = (settings.currency.clone(), file.is_some());
    let node = Node::start(settings).await?;
    let platform = Services::new(
        node.database.clone(),
        Arc::clone(&node.directory),
        Arc::clone(&node.read_barrier),
        DeploymentSettings { currency, node: node.id.to_string() },
        node.catalog_source(file),
    );
    let state = AdminState::new(Arc::clone(&platform), admin_settings);
    let consistency_monitor =
        tasks::spawn("consistency monitor", node.consistency_monitor(Arc::clone(&platform)).run());
    let routes = node.health(metrics, Arc::clone(&platform)).merge(router(state));
    let (stop_admin, stopped) = oneshot::channel::<()>();
    tasks::spawn("admin", serve_admin(listener, routes, stopped));
    Ok(Running { admin_address, platform, node, has_file, stop_admin, consistency_monitor })
}

async fn serve_admin(listener: TcpListener, routes: Router, stopped: oneshot::Receiver<()>) {
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(async {
        // A dropped sender stops the listener as well.
        let _ = stopped.await;
    });
    if let Err(fault) = served.await {
        tracing::error!(%fault, "admin listener failed");
    }
}

impl Running {
    /// Waits for SIGTERM or SIGINT, then finishes open calls and stops. SIGHUP reloads the catalog
    /// if there is a configuration file; otherwise it has its default effect and ends the process.
    pub async fn run_until_signal(self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let hang_up = self.has_file.then(|| signal(SignalKind::hangup())).transpose();
        let mut hang_up = hang_up.context("cannot handle SIGHUP")?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = received(hang_up.as_mut()) => {}
            }
            if let Err(fault) = catalog::reload_on_signal(&self.platform).await {
                tracing::error!(?fault, "catalog reload failed; the current catalog stays in use");
            }
        }
        tracing::info!("shutting down; finishing open calls");
        self.consistency_monitor.abort();
        self.node.stop().await;
        // Stop the admin listener last, so that `/readyz` can be read while calls finish.
        let _ = self.stop_admin.send(());
        Ok(())
    }
}

/// Waits for the signal, or forever without a signal handler.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}

/// `meteor serve`: runs the gateway with these settings.
pub async fn serve(settings: Settings, file: Option<PathBuf>) -> Result<()> {
    let operator = settings.admin.operator.as_ref().map(|operator| NewOperator {
        email: operator.email.clone(),
        name: operator.email.clone(),
        password: Some(operator.password.clone()),
    });
    let data: PathBuf = settings.data.clone();
    let configured_url = settings.admin.public_url.clone();
    let running = start(settings, file).await?;
    let url = configured_url.unwrap_or_else(|| format!("http://{}", running.admin_address));
    let first = bootstrap::first_start(&running.platform, operator)
        .await
        .map_err(|error| anyhow::anyhow!("cannot create the operator: {error:?}"))?;
    // Log this after the operator exists, because a script that waits for this line may sign in as
    // the operator.
    tracing::info!(
        proxy = %running.node.proxy_address,
        admin = %running.admin_address,
        data = %data.display(),
        "accepting calls"
    );
    if let FirstStart::Link(secret) = first {
        // Print the link to the terminal and not to the log, because anyone who has it can become
        // the operator.
        println!(
            "Open this link within one hour to create the operator: {}",
            bootstrap::setup_url(&url, &secret)
        );
    }
    running.run_until_signal().await
}

fn public_url(settings: &Settings, admin_address: SocketAddr) -> String {
    settings.admin.public_url.clone().unwrap_or_else(|| format!("http://{admin_address}"))
}
