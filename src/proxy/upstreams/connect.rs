//! Opens connections to upstreams: TCP, TLS, HTTP/1.1.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::crash::crash_point;
use crate::proxy::upstreams::request_body::UpstreamBody;
use crate::proxy::upstreams::upstream::Upstream;
use crate::tasks;

/// Which root certificates are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots {
    /// The certificates of the operating system.
    Platform,
    /// The certificates compiled into this binary.
    Bundled,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Name resolution, TCP or TLS failed.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("HTTP handshake failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("connection timed out")]
    TimedOut,
}

/// Returns a TLS configuration. All workers share one, so that sessions are resumed.
pub fn tls(roots: Roots) -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let config = match roots {
        Roots::Platform => {
            use rustls_platform_verifier::BuilderVerifierExt;
            let verified = builder.clone().with_platform_verifier().unwrap_or_else(|fault| {
                // Without certificates only plain HTTP upstreams work.
                tracing::warn!(
                    %fault,
                    "no TLS root certificates loaded: HTTPS upstreams will fail; see tls.roots"
                );
                builder.with_root_certificates(RootCertStore::empty())
            });
            verified.with_no_client_auth()
        }
        Roots::Bundled => {
            let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Opens a connection and drives it on the thread of this worker.
pub async fn connect(
    upstream: &Upstream,
    tls: &TlsConnector,
) -> Result<SendRequest<UpstreamBody>, ConnectError> {
    let opening =
        tokio::time::timeout(upstream.settings.connect_timeout, open_stream(upstream, tls));
    let stream = opening.await.map_err(|_| ConnectError::TimedOut)??;
    let (sender, mut connection) = http1::handshake(TokioIo::new(stream)).await?;
    let name = Arc::clone(upstream.name());
    tasks::spawn_local(async move {
        // Awaited by reference: moving it would store it a second time in the task.
        if let Err(fault) = (&mut connection).await {
            tracing::debug!(upstream = %name, %fault, "upstream connection failed");
        }
    });
    Ok(sender)
}

async fn open_stream(upstream: &Upstream, tls: &TlsConnector) -> io::Result<UpstreamStream> {
    let address = &upstream.settings.address;
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
    tcp.set_nodelay(true)?;
    if !address.tls {
        return Ok(UpstreamStream::Plain(tcp));
    }
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    Ok(UpstreamStream::Tls(Box::new(tls.connect(name, tcp).await?)))
}

#[derive(Debug)]
enum UpstreamStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! either {
    ($stream:expr, $inside:ident => $call:expr) => {
        match $stream.get_mut() {
            UpstreamStream::Plain($inside) => {
                let $inside = Pin::new($inside);
                $call
            }
            UpstreamStream::Tls($inside) => {
                let $inside = Pin::new($inside.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = either!(self, stream => stream.poll_write_vectored(context, pieces));
        crash_point!("request-sent" if matches!(written, Poll::Ready(Ok(1..))));
        written
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(context))
    }
}
