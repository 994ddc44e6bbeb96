//! Socket operations of all roles: one listener per thread, non-blocking reads and writes.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::time::Duration;

use anyhow::Result;
use mio::net::TcpStream;
use mio::{Events, Poll};
use socket2::{Domain, Socket, Type};

/// Opens one listener per thread on one free loopback port. The kernel distributes the connections,
/// so that threads never exchange them.
pub fn listeners(threads: usize) -> Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for _ in 0..threads {
        let port = listeners.first().map_or(Ok(0), |l| l.local_addr().map(|a| a.port()))?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).into())?;
        socket.listen(1024)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// Runs `serve` on one named thread per listener and prints the port on standard output, from which
/// the parent learns it. Returns when a thread has failed.
pub fn serve_on_threads<S>(threads: usize, serve: S) -> Result<()>
where
    S: Fn(TcpListener) -> Result<()> + Clone + Send + 'static,
{
    let listeners = listeners(threads)?;
    let port = listeners[0].local_addr()?.port();
    let mut workers = Vec::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        let serve = serve.clone();
        let worker = std::thread::Builder::new().name(format!("worker-{number}"));
        workers.push(worker.spawn(move || serve(listener))?);
    }
    println!("{port}");
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    Ok(())
}

/// Waits for events. A signal, for example of a profiler, only shortens the wait.
pub fn wait(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Reads once. `None`: nothing available. `Some(0)`: the peer has closed the connection.
pub fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match stream.read(buffer) {
            Ok(count) => return Some(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            // A reset counts as closed. The load generator notices lost requests.
            Err(_) => return Some(0),
        }
    }
}

/// Writes as much of `first` and `second` as the kernel accepts, after skipping `skip` bytes.
pub fn write(
    mut stream: &TcpStream,
    first: &[u8],
    second: &[u8],
    skip: usize,
) -> io::Result<usize> {
    let (first, second) = if skip < first.len() {
        (&first[skip..], second)
    } else {
        (&[][..], &second[skip - first.len()..])
    };
    let result = if first.is_empty() {
        stream.write(second)
    } else if second.is_empty() {
        stream.write(first)
    } else {
        stream.write_vectored(&[IoSlice::new(first), IoSlice::new(second)])
    };
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
