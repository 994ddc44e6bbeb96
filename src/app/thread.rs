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

use crate::accounting::permit::Desk;
use crate::counters::memory::Whole;
use crate::journal::keeper::ChainState;
use crate::journal::writer::Writer;
use crate::ledger::projector::Projector;
use crate::proxy::arrival::Ids;
use crate::proxy::background::Background;
use crate::proxy::exchange::exchange;
use crate::proxy::listener;
use crate::proxy::pool::Pool;
use crate::proxy::refusals::Refusals;
use crate::proxy::worker::{Shared, Worker};
use crate::tasks;
use crate::telemetry::metric;

/// How often refusals that were gathered are written.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);

/// What a worker is started with.
#[derive(Clone)]
pub struct WorkerSetup {
    /// What it shares with the others.
    pub shared: Arc<Shared>,
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
        if let Err(fault) = work(setup, socket) {
            tracing::error!(%fault, "a worker ended");
            tasks::stop_process("a worker cannot go on");
        }
    })
}

fn work(setup: WorkerSetup, socket: TcpListener) -> io::Result<()> {
    let WorkerSetup { shared, chain, tls, drain, mut abort } = setup;
    let writer = Writer::new(chain)
        .ok_or_else(|| io::Error::other("the journal has no segment to begin with"))?;
    let settings = Rc::new(shared.settings.clone());
    let books = shared.directory.books();
    let (admission, inputs) = (books.admission(), Arc::clone(books.inputs()));
    let worker = Rc::new(Worker {
        shared,
        desk: Rc::new(Desk { writer: Rc::clone(&writer), lender: Whole, admission, inputs }),
        pool: Pool::new(tls),
        background: Background::new(settings.drain_after_leave),
        ids: Ids::new().map_err(io::Error::other)?,
        refusals: Refusals::new(Rc::clone(&writer)),
        unauthenticated: counter!(metric::UNAUTHENTICATED),
    });
    let runtime =
        RuntimeBuilder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let served = runtime.block_on(async {
        let committer = Rc::clone(&writer);
        tasks::spawn_here(async move { committer.commit_for_ever().await });
        let flushed = Rc::clone(&worker);
        tasks::spawn_here(async move {
            loop {
                tokio::time::sleep(REFUSALS_EVERY).await;
                flushed.refusals.flush();
                let catalog = flushed.shared.catalog.load();
                let is_kept = |lane| catalog.upstreams().iter().any(|known| known.lane == lane);
                flushed.pool.keep(is_kept);
            }
        });
        let background = worker.background.clone();
        let called = Rc::clone(&worker);
        let service = move |request, address| exchange(Rc::clone(&called), request, address);
        let finished = async {
            listener::serve(socket, settings, drain, background.left(), service).await?;
            background.ended().await;
            Ok(())
        };
        tokio::select! {
            served = finished => served,
            _ = abort.wait_for(|abort| *abort) => Ok(()),
        }
    });
    // Calls that are still open end here: dropping a call settles it, which is then written.
    drop(runtime);
    worker.refusals.flush();
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
