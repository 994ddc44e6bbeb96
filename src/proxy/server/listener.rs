//! A worker's listening socket on the shared port, and the connections accepted from it.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::gauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Sleep;

use crate::proxy::server::in_flight::{InFlight, InFlightGuard};
use crate::proxy::server::worker::ProxySettings;
use crate::tasks;
use crate::telemetry::metric;

const BACKLOG: i32 = 4_096;
/// Pause after a failed `accept`, for example if no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the socket of one worker. All workers listen on the same address with `SO_REUSEPORT`, and the
/// kernel distributes connections among them.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections until `drain` is set, then waits until open connections have finished.
///
/// While draining, a connection ends after its current call, an idle one immediately. `detached` calls
/// count as connections.
pub async fn serve<S, F, B>(
    listener: std::net::TcpListener,
    settings: Rc<ProxySettings>,
    mut drain: watch::Receiver<bool>,
    detached: &InFlight,
    service: S,
) -> io::Result<()>
where
    S: Fn(Request<Incoming>, IpAddr) -> F + Clone + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    let connections = InFlight::new(gauge!(metric::CONNECTIONS));
    loop {
        let is_full = settings.connections_max <= connections.count() + detached.count();
        let accepted = tokio::select! {
            biased;
            _ = drain.wait_for(|drain| *drain) => break,
            accepted = listener.accept(), if !is_full => accepted,
            () = connections.decreased(), if is_full => continue,
            () = detached.decreased(), if is_full => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(fault) => {
                tracing::warn!(%fault, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let client = Client { stream, peer, _guard: connections.enter() };
        let (settings, drain) = (Rc::clone(&settings), drain.clone());
        tasks::spawn_local(serve_connection(client, settings, drain, service.clone()));
    }
    drop(listener);
    connections.drained().await;
    Ok(())
}

/// An accepted connection.
struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    _guard: InFlightGuard,
}

/// Serves one connection to its end.
async fn serve_connection<S, F, B>(
    client: Client,
    settings: Rc<ProxySettings>,
    mut drain: watch::Receiver<bool>,
    service: S,
) where
    S: Fn(Request<Incoming>, IpAddr) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let Client { stream, peer, _guard } = client;
    if let Err(fault) = stream.set_nodelay(true) {
        tracing::debug!(%fault, "client connection closed before it was served");
        return;
    }
    let address = peer.ip().to_canonical();
    let stream = ClientStream { stream, idle_timeout: settings.client_idle, stall_timer: None };
    let service = service_fn(move |request| {
        // Boxed, so that its memory is freed with the response: an inline future would occupy the
        // connection task until the connection ends.
        let response = Box::pin(service(request, address));
        async move { Ok::<_, std::convert::Infallible>(response.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_read_timeout)
        .max_buf_size(settings.header_bytes_max.max(8_192))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let flag = drain.clone();
    let mut drained = pin!(drain.wait_for(|drain| *drain));
    let (mut polled, mut closing) = (false, false);
    // Poll the drain signal one time to register the waker, and again only after it is set, because a
    // connection is polled too often to poll the signal each time.
    let ended = poll_fn(|context| {
        let poll_drain = !closing && (!polled || *flag.borrow());
        polled = true;
        if poll_drain && drained.as_mut().poll(context).is_ready() {
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context)
    })
    .await;
    if let Err(fault) = ended {
        tracing::debug!(%peer, %fault, "client connection failed");
    }
}

/// A client connection with a write timeout. Without one, a client that stops reading would keep its
/// hold on the wallet open for any time.
#[derive(Debug)]
struct ClientStream {
    stream: TcpStream,
    idle_timeout: Duration,
    stall_timer: Option<Pin<Box<Sleep>>>,
}

impl ClientStream {
    fn with_idle_timeout<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall_timer = None;
            return written;
        }
        let idle_timeout = self.idle_timeout;
        let stall_timer =
            self.stall_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_timeout)));
        stall_timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.with_idle_timeout(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.with_idle_timeout(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
