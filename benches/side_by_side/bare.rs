//! The gateway's own listener and upstream pool without any policy: the gateway's cost without
//! governance.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use meteor::dialect::endpoint::Dialect;
use meteor::proxy::server::in_flight::InFlight;
use meteor::proxy::server::listener;
use meteor::proxy::server::worker::ProxySettings;
use meteor::proxy::upstreams::connect::{Roots, tls};
use meteor::proxy::upstreams::pool::{Lease, Pool};
use meteor::proxy::upstreams::request_body::UpstreamBody;
use meteor::proxy::upstreams::upstream::Upstream;
use meteor::settings::upstream::{Auth, BaseUrl, CircuitSettings, UpstreamSettings};
use metrics::Gauge;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;

use crate::sockets;

pub fn run(threads: usize, address: SocketAddr) -> Result<()> {
    sockets::serve_on_threads(threads, move |socket| work(socket, address))
}

fn work(socket: TcpListener, address: SocketAddr) -> Result<()> {
    let settings = Rc::new(ProxySettings {
        body_bytes_max: 32 << 20,
        header_bytes_max: 64 << 10,
        header_read_timeout: Duration::from_secs(10),
        client_idle: Duration::from_mins(1),
        drain_after_disconnect: Duration::from_secs(10),
        connections_max: 10_000,
    });
    let pool = Pool::new(tls(Roots::Bundled)?);
    let upstream = Arc::new(upstream(address)?);
    let (_drain, draining) = watch::channel(false);
    let service = move |request, _: IpAddr| forward(pool.clone(), Arc::clone(&upstream), request);
    socket.set_nonblocking(true)?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let left = InFlight::new(Gauge::noop());
    Ok(runtime.block_on(listener::serve(socket, settings, draining, &left, service))?)
}

fn upstream(address: SocketAddr) -> Result<Upstream> {
    Ok(Upstream::new(UpstreamSettings {
        name: "bare".into(),
        address: BaseUrl::parse(&format!("http://{address}"))
            .map_err(|error| anyhow::anyhow!("{address}: {error:?}"))?,
        dialects: vec![Dialect::OpenAi],
        auth: Auth::None,
        headers: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_mins(10),
        idle_timeout: Duration::from_mins(5),
        idle_connections_max: 256,
        dedicated: false,
        bills_after_disconnect: false,
        forward_limits: false,
        circuit: CircuitSettings::default(),
        retry_after_max: Duration::ZERO,
    }))
}

async fn forward(
    pool: Pool,
    upstream: Arc<Upstream>,
    request: Request<Incoming>,
) -> Response<ForwardedBody> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("the load sends complete bodies").to_bytes();
    let mut request = Request::new(UpstreamBody::new(&body, &[]));
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    let lease = pool.lease(&upstream).await.expect("the fake provider listens");
    let (response, lease) = lease.send(request).await.expect("the fake provider responds");
    response.map(|body| ForwardedBody { body, lease: Some(lease) })
}

/// A body that returns its connection when it has been read completely.
struct ForwardedBody {
    body: Incoming,
    lease: Option<Lease>,
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if (frame.is_none() || self.body.is_end_stream())
            && let Some(lease) = self.lease.take()
        {
            lease.return_to_pool();
        }
        Poll::Ready(frame.map(|frame| Ok(frame.expect("the fake provider sends complete bodies"))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
