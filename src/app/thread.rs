//! The threads of a node: workers, each with a runtime of its own, and the projector.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use metrics::counter;
use tokio::runtime::{Builder as RuntimeBuilder, LocalOptions};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::accounting::permit::AdmissionContext;
use crate::counters::memory::LocalLender;
use crate::journal::chains::ChainState;
use crate::journal::writer::Writer;
use crate::ledger::projector::Projector;
use crate::proxy::pipeline::handle;
use crate::proxy::refusal::refusal_log::RefusalLog;
use crate::proxy::request_context::RequestIds;
use crate::proxy::server::detached::DetachedCalls;
use crate::proxy::server::listener;
use crate::proxy::server::worker::{SharedState, Worker};
use crate::proxy::upstream::pool::Pool;
use crate::tasks;
use crate::telemetry::metric;

/// How often refusals that were gathered are written.
const REFUSALS_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// What a worker is started with.
#[derive(Clone)]
pub struct WorkerSetup {
    /// What it shares with the others.
    pub shared: Arc<SharedState>,
    /// Its chain of the journal.
    pub chain: Arc<ChainState>,
    /// How it reaches upstreams by TLS.
    pub tls: TlsConnector,
    /// Says that it shall finish its calls and end.
    pub drain: watch::Receiver<bool>,
    /// Says that it shall end its calls now.
    pub abort: watch::Receiver<bool>,
}

/// Starts a worker on a socket of its own.
pub fn start_worker(setup: WorkerSetup, socket: TcpListener) -> io::Result<JoinHandle<()>> {
    let name = format!("worker-{}", setup.chain.name.worker);
    Builder::new().name(name).spawn(move || {
        if let Err(fault) = run_worker(setup, socket) {
            tracing::error!(%fault, "a worker ended");
            tasks::stop_process("a worker cannot go on");
        }
    })
}

fn run_worker(setup: WorkerSetup, socket: TcpListener) -> io::Result<()> {
    let WorkerSetup { shared, chain, tls, drain, mut abort } = setup;
    let writer = Writer::new(chain)
        .ok_or_else(|| io::Error::other("the journal has no segment to begin with"))?;
    let settings = Rc::new(shared.settings.clone());
    let books = shared.directory.live_state();
    let (admission, inputs) = (books.admission(), Arc::clone(books.input_cache()));
    let worker = Rc::new(Worker {
        shared,
        admission: Rc::new(AdmissionContext {
            writer: Rc::clone(&writer),
            lender: LocalLender,
            settings: admission,
            input_cache: inputs,
        }),
        pool: Pool::new(tls),
        detached: DetachedCalls::new(settings.drain_after_leave),
        request_ids: RequestIds::new().map_err(io::Error::other)?,
        refusal_log: RefusalLog::new(Rc::clone(&writer)),
        unauthenticated: counter!(metric::UNAUTHENTICATED),
    });
    let runtime =
        RuntimeBuilder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let served = runtime.block_on(async {
        let committer = Rc::clone(&writer);
        tasks::spawn_local(async move { committer.run_committer().await });
        let flushed = Rc::clone(&worker);
        tasks::spawn_local(async move {
            loop {
                tokio::time::sleep(REFUSALS_FLUSH_INTERVAL).await;
                flushed.refusal_log.flush();
                let catalog = flushed.shared.catalog.load();
                let is_kept =
                    |lane| catalog.upstreams().iter().any(|known| known.pool_slot == lane);
                flushed.pool.retain(is_kept);
            }
        });
        let background = worker.detached.clone();
        let called = Rc::clone(&worker);
        let service = move |request, address| handle(Rc::clone(&called), request, address);
        let finished = async {
            listener::serve(socket, settings, drain, background.disconnected(), service).await?;
            background.drained().await;
            Ok(())
        };
        tokio::select! {
            served = finished => served,
            _ = abort.wait_for(|abort| *abort) => Ok(()),
        }
    });
    // Calls that are still open end here: dropping a call settles it, which is then written.
    drop(runtime);
    worker.refusal_log.flush();
    writer.commit();
    served
}

/// Starts the projector; it ends, all projected, when `stop` says so.
pub fn start_projector(
    projector: Projector,
    mut stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let runtime = RuntimeBuilder::new_current_thread().enable_all().build()?;
    Builder::new().name("projector".to_owned()).spawn(move || {
        runtime.block_on(projector.run(async move {
            // A sender that is gone says the same as one that says stop.
            let _ = stop.wait_for(|stop| *stop).await;
        }));
    })
}
