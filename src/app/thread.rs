//! The threads of a node: the workers, each with its own runtime, and the projector.

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
use crate::proxy::server::detached_calls::DetachedCalls;
use crate::proxy::server::listener;
use crate::proxy::server::worker::{SharedState, Worker};
use crate::proxy::upstreams::pool::Pool;
use crate::tasks;
use crate::telemetry::metric;

/// How often collected refusals are written to the journal.
const REFUSALS_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// What a worker needs to start.
#[derive(Clone)]
pub struct WorkerSetup {
    pub shared: Arc<SharedState>,
    pub chain: Arc<ChainState>,
    pub tls: TlsConnector,
    /// Set to true to finish open calls and then end.
    pub drain: watch::Receiver<bool>,
    /// Set to true to end open calls at once.
    pub abort: watch::Receiver<bool>,
}

/// Starts a worker thread on its own socket.
pub fn start_worker(setup: WorkerSetup, socket: TcpListener) -> io::Result<JoinHandle<()>> {
    let name = format!("worker-{}", setup.chain.name.worker);
    Builder::new().name(name).spawn(move || {
        if let Err(fault) = run_worker(setup, socket) {
            tracing::error!(%fault, "worker failed");
            tasks::stop_process("worker failed");
        }
    })
}

fn run_worker(setup: WorkerSetup, socket: TcpListener) -> io::Result<()> {
    let WorkerSetup { shared, chain, tls, drain, mut abort } = setup;
    let writer = Writer::new(chain)
        .ok_or_else(|| io::Error::other("the first journal segment has not been created"))?;
    let settings = Rc::new(shared.settings.clone());
    let live_state = shared.directory.live_state();
    let (admission, input_cache) = (live_state.admission(), Arc::clone(live_state.input_cache()));
    let worker = Rc::new(Worker {
        shared,
        admission: Rc::new(AdmissionContext {
            writer: Rc::clone(&writer),
            lender: LocalLender,
            settings: admission,
            input_cache,
        }),
        pool: Pool::new(tls),
        detached: DetachedCalls::new(settings.drain_after_disconnect),
        request_ids: RequestIds::new().map_err(io::Error::other)?,
        refusal_log: RefusalLog::new(Rc::clone(&writer)),
        unauthenticated: counter!(metric::UNAUTHENTICATED),
    });
    let runtime =
        RuntimeBuilder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let served = runtime.block_on(async {
        let committer = Rc::clone(&writer);
        tasks::spawn_local(async move { committer.run_committer().await });
        let flusher = Rc::clone(&worker);
        tasks::spawn_local(async move {
            loop {
                tokio::time::sleep(REFUSALS_FLUSH_INTERVAL).await;
                flusher.refusal_log.flush();
                let catalog = flusher.shared.catalog.load();
                let in_catalog =
                    |slot| catalog.upstreams().iter().any(|upstream| upstream.pool_slot == slot);
                flusher.pool.retain(in_catalog);
            }
        });
        let detached = worker.detached.clone();
        let service_worker = Rc::clone(&worker);
        let service = move |request, address| handle(Rc::clone(&service_worker), request, address);
        let finished = async {
            listener::serve(socket, settings, drain, detached.disconnected(), service).await?;
            detached.drained().await;
            Ok(())
        };
        tokio::select! {
            served = finished => served,
            _ = abort.wait_for(|abort| *abort) => Ok(()),
        }
    });
    // Dropping the runtime drops the open calls, which settles them. The writer then writes these
    // entries.
    drop(runtime);
    worker.refusal_log.flush();
    writer.commit();
    served
}

/// Starts the projector thread. It ends after `shutdown` is set and everything is projected.
pub fn start_projector(
    projector: Projector,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let runtime = RuntimeBuilder::new_current_thread().enable_all().build()?;
    Builder::new().name("projector".to_owned()).spawn(move || {
        runtime.block_on(projector.run(async move {
            // A dropped sender stops the projector as well.
            let _ = shutdown.wait_for(|shutdown| *shutdown).await;
        }));
    })
}
