//! The built-in provider: an HTTP server that imitates real providers and simulates their faults.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use crate::demo::anthropic::routes as anthropic;
use crate::demo::gemini::routes as gemini;
use crate::demo::openai::routes as openai;
use crate::demo::reply::{PacedBody, Reply};
use crate::demo::script::{ReplyEnding, Script};
use crate::tasks;

const BODY_BYTES_MAX: usize = 64 << 20;
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long open connections may take to finish during shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

/// Serves `listener` until `shutdown` completes.
pub async fn serve(listener: TcpListener, shutdown: impl Future) {
    let connections = GracefulShutdown::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    let mut shutdown = pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The client has disconnected already, or the process has too many open files.
                Err(error) => {
                    tracing::warn!(%error, "demo provider: accept failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
            _ = &mut shutdown => break,
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let connection = server.serve_connection(TokioIo::new(stream), service_fn(handle));
        let connection = connections.watch(connection);
        tasks::spawn("demo-provider", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "demo provider: connection closed with an error");
            }
        });
    }
    // Remaining connections are stalled or slow. Closing them is fine, because the demo ends.
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connections.shutdown()).await;
}

async fn handle(request: Request<Incoming>) -> Result<Response<PacedBody>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Ok(openai::unreadable().into_response(&Script::default()));
    };
    let (reply, script) = route(&Request::from_parts(parts, body.to_bytes()));
    tokio::time::sleep(script.latency).await;
    // A response without a stream is sent after it is complete, so a stall sends not even the
    // headers.
    if script.ending == ReplyEnding::Stall
        && reply.error_event.is_none()
        && reply.status.is_success()
    {
        std::future::pending::<()>().await;
    }
    Ok(reply.into_response(&script))
}

fn route(request: &Request<Bytes>) -> (Reply, Script) {
    let path = request.uri().path();
    match (request.method().as_str(), path) {
        ("POST", "/v1/chat/completions") => openai::chat(request),
        ("POST", "/v1/completions") => openai::text(request),
        ("POST", "/v1/responses") => openai::response(request),
        ("POST", "/v1/responses/compact") => openai::compact(request),
        ("POST", "/v1/responses/input_tokens") => openai::count_tokens(request),
        ("POST", "/v1/moderations") => openai::moderate(request),
        ("POST", "/v1/embeddings") => openai::embed(request),
        ("POST", "/v1/images/generations" | "/v1/images/edits" | "/v1/images/variations") => {
            openai::images(request)
        }
        ("POST", "/v1/audio/speech") => openai::speech(request),
        ("POST", "/v1/audio/transcriptions" | "/v1/audio/translations") => {
            openai::transcription(request)
        }
        ("POST", "/v1/messages") => anthropic::message(request),
        ("POST", "/v1/messages/count_tokens") => anthropic::count_tokens(request),
        ("GET", "/v1/models" | "/v1beta/models") => models(request, None),
        (method, _) => match (method, model_and_method(path)) {
            ("POST", Some((model, Some(method)))) => gemini::call(model, method, request),
            ("GET", Some((model, None))) => models(request, Some(model)),
            _ => openai::not_found(request.method(), path),
        },
    }
}

/// All dialects list their models at the same path. The headers tell the dialects apart.
fn models(request: &Request<Bytes>, name: Option<&str>) -> (Reply, Script) {
    let (headers, path) = (request.headers(), request.uri().path());
    if path.starts_with("/v1beta/") || headers.contains_key("x-goog-api-key") {
        gemini::models(name)
    } else if headers.contains_key("anthropic-version") {
        anthropic::models(name)
    } else {
        openai::models(name)
    }
}

/// Parses `/{version}/models/{model}:{method}`.
fn model_and_method(path: &str) -> Option<(&str, Option<&str>)> {
    let (version, rest) = path.strip_prefix('/')?.split_once("/models/")?;
    let names = match rest.split_once(':') {
        Some((model, method)) => (model, Some(method)),
        None => (rest, None),
    };
    matches!(version, "v1" | "v1beta").then_some(names)
}
