//! Running: a node and its admin listener, from the start to the signal that ends them.

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

/// A node with its admin side, taking calls.
pub struct Running {
    /// Where the admin API is reached.
    pub admin_address: SocketAddr,
    /// What the use cases work on.
    pub platform: Arc<Services>,
    /// The node.
    pub node: Node,
    /// Whether there is a file that a reload reads again.
    has_file: bool,
    stop_admin: oneshot::Sender<()>,
    consistency_monitor: JoinHandle<()>,
}

/// Starts a node and its admin listener; `file` is what a reload reads again.
pub async fn start(settings: Settings, file: Option<PathBuf>) -> Result<Running> {
    let metrics = metric::install().context("the metrics cannot be kept")?;
    let listener = TcpListener::bind(settings.admin.listen)
        .await
        .with_context(|| format!("the admin address {} is not free", settings.admin.listen))?;
    let admin_address = listener.local_addr().context("the admin address")?;
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
        node.reload(file),
    );
    let state = AdminState::new(Arc::clone(&platform), admin_settings);
    let watch = tasks::spawn("watch", node.consistency_monitor(Arc::clone(&platform)).run());
    let routes = node.health(metrics, Arc::clone(&platform)).merge(router(state));
    let (stop_admin, stopped) = oneshot::channel::<()>();
    tasks::spawn("admin", serve_admin(listener, routes, stopped));
    Ok(Running { admin_address, platform, node, has_file, stop_admin, consistency_monitor: watch })
}

async fn serve_admin(listener: TcpListener, routes: Router, stopped: oneshot::Receiver<()>) {
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(async {
        // A sender that is gone says the same as one that says stop.
        let _ = stopped.await;
    });
    if let Err(fault) = served.await {
        tracing::error!(%fault, "the admin listener ended");
    }
}

impl Running {
    /// Waits for SIGTERM or SIGINT, finishes what is open, and stops. SIGHUP reads the catalog
    /// again where it has a file; else it does what it always does, as when a terminal closes.
    pub async fn run_until_signal(self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let hang_up = self.has_file.then(|| signal(SignalKind::hangup())).transpose();
        let mut hang_up = hang_up.context("SIGHUP")?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = received(hang_up.as_mut()) => {}
            }
            if let Err(fault) = catalog::reload_on_signal(&self.platform).await {
                tracing::error!(?fault, "the catalog stays as it is");
            }
        }
        tracing::info!("stopping: open calls are finished first");
        self.consistency_monitor.abort();
        self.node.stop().await;
        // The admin side goes last: it answers `/readyz` while calls finish.
        let _ = self.stop_admin.send(());
        Ok(())
    }
}

/// Resolves when the signal comes: never where nobody listens for it.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}

/// `meteor serve`: the real thing, by the settings of that file.
pub async fn serve(settings: Settings, file: Option<PathBuf>) -> Result<()> {
    let operator = settings.admin.operator.as_ref().map(|operator| NewOperator {
        email: operator.email.clone(),
        name: operator.email.clone(),
        password: Some(operator.password.clone()),
    });
    let data: PathBuf = settings.data.clone();
    let given_url = settings.admin.public_url.clone();
    let running = start(settings, file).await?;
    let url = given_url.unwrap_or_else(|| format!("http://{}", running.admin_address));
    let first = bootstrap::first_start(&running.platform, operator)
        .await
        .map_err(|denied| anyhow::anyhow!("the operator: {denied:?}"))?;
    // Only now: whoever reads it may sign in as the operator that the configuration names.
    tracing::info!(
        proxy = %running.node.proxy_address,
        admin = %running.admin_address,
        data = %data.display(),
        "taking calls"
    );
    if let FirstStart::Link(secret) = first {
        // To the terminal, not to the log: whoever has it becomes the operator.
        println!("Set up the operator within an hour: {}", bootstrap::setup_url(&url, &secret));
    }
    running.run_until_signal().await
}

fn public_url(settings: &Settings, admin_address: SocketAddr) -> String {
    settings.admin.public_url.clone().unwrap_or_else(|| format!("http://{admin_address}"))
}
