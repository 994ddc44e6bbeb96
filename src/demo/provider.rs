//! temp
/// temp
pub async fn serve(_listener: tokio::net::TcpListener, stop: impl Future<Output = ()>) {
    stop.await;
}
