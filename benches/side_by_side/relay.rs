//! The floor: copies bytes in both directions without parsing them. The cost above this is what a
//! proxy does itself.

use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::sockets;

const LISTENER: Token = Token(usize::MAX);

/// A client connection and its upstream connection.
struct Pair {
    ends: [TcpStream; 2],
    /// Bytes read from each end that its peer did not accept yet.
    unsent: [Vec<u8>; 2],
}

pub fn run(threads: usize, upstream: SocketAddr) -> Result<()> {
    sockets::serve_on_threads(threads, move |listener| serve(listener, upstream))
}

fn serve(listener: TcpListener, upstream: SocketAddr) -> Result<()> {
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        sockets::wait(&mut poll, &mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    accept(&poll, &mut pairs, client, upstream)?;
                }
                continue;
            }
            let (slot, end) = (event.token().0 / 2, event.token().0 % 2);
            let Some(pair) = pairs[slot].as_mut() else { continue };
            let open = pair.copy(end, &mut buffer, event.is_read_closed())
                // This end can accept bytes again, so resume sending what its peer has read.
                && (!event.is_writable() || pair.unsent[1 - end].is_empty()
                    || pair.copy(1 - end, &mut buffer, false));
            if !open {
                pairs[slot] = None;
            }
        }
    }
}

fn accept(
    poll: &Poll,
    pairs: &mut Vec<Option<Pair>>,
    client: TcpStream,
    upstream: SocketAddr,
) -> Result<()> {
    // A blocking connect is immediate on loopback, simpler, and outside the window.
    let peer = std::net::TcpStream::connect(upstream)?;
    peer.set_nonblocking(true)?;
    let mut ends = [client, TcpStream::from_std(peer)];
    let slot = pairs.iter().position(Option::is_none).unwrap_or_else(|| {
        pairs.push(None);
        pairs.len() - 1
    });
    for (end, stream) in ends.iter_mut().enumerate() {
        stream.set_nodelay(true)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(stream, Token(slot * 2 + end), both)?;
    }
    pairs[slot] = Some(Pair { ends, unsent: [Vec::new(), Vec::new()] });
    Ok(())
}

impl Pair {
    /// Copies from one end to the other. Returns false when the pair is finished.
    fn copy(&mut self, from: usize, buffer: &mut [u8], closing: bool) -> bool {
        let peer = &self.ends[1 - from];
        loop {
            if !self.unsent[from].is_empty() {
                let Ok(sent) = sockets::write(peer, &self.unsent[from], b"", 0) else {
                    return false;
                };
                self.unsent[from].drain(..sent);
                if !self.unsent[from].is_empty() {
                    return true;
                }
            }
            let Some(count) = sockets::read(&self.ends[from], buffer) else { return true };
            if count == 0 {
                return false;
            }
            let Ok(sent) = sockets::write(peer, &buffer[..count], b"", 0) else { return false };
            self.unsent[from].extend_from_slice(&buffer[sent..count]);
            // The socket is empty if the read did not fill the buffer. The next edge wakes this
            // thread.
            if count < buffer.len() && !closing && self.unsent[from].is_empty() {
                return true;
            }
        }
    }
}
