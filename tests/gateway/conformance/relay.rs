//! The client's side of the conformance suite, rewritten to another version of the protocol.
//!
//! In: connections of the suite. Out: the same bytes to the server and back, with the version's
//! name exchanged: all such names are of one length, so that no length of a message changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What the suite's own client asks for.
const ASKED: [&str; 2] = ["2025-11-25", "2025-06-18"];

pub struct Relay {
    pub addr: SocketAddr,
    sessions: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Relay {
    /// Where the suite asks for another version, the server is asked for this one.
    pub async fn start(server: SocketAddr, version: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let sessions = Arc::new(AtomicUsize::new(0));
        let opened = Arc::clone(&sessions);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server, version, Arc::clone(&opened)));
            }
        });
        Relay {
            addr,
            sessions,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    /// How often the server agreed to the version.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::SeqCst)
    }
}

async fn connection(
    client: TcpStream,
    server: SocketAddr,
    version: &'static str,
    opened: Arc<AtomicUsize>,
) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // What the client asked for last on this connection, to be put back into the answer.
    let (asked, asking) = watch::channel(version);
    let there = pass(from_client, to_server, |bytes| {
        for other in ASKED {
            if exchange(bytes, other, version) > 0 {
                let _ = asked.send(other);
            }
        }
    });
    let agreed = format!("\"protocolVersion\":\"{version}\"");
    let back = pass(from_server, to_client, |bytes| {
        opened.fetch_add(places(bytes, &agreed).len(), Ordering::SeqCst);
        let other = *asking.borrow();
        exchange(bytes, &agreed, &agreed.replace(version, other));
    });
    tokio::join!(there, back);
}

/// Passes on what comes. What an end of a read may have cut in two is kept until the rest is there:
/// a message does not end within a name, so that nothing waits for it.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut change: impl FnMut(&mut [u8])) {
    let mut bytes = Vec::new();
    while matches!(from.read_buf(&mut bytes).await, Ok(1..)) {
        let end = bytes.iter().rposition(|byte| b"}\n \r".contains(byte));
        let Some(end) = end else { continue };
        let mut whole: Vec<u8> = bytes.drain(..=end).collect();
        change(&mut whole);
        if to.write_all(&whole).await.is_err() {
            return;
        }
    }
    let _ = to.write_all(&bytes).await;
    let _ = to.shutdown().await;
}

fn places(bytes: &[u8], name: &str) -> Vec<usize> {
    let windows = bytes.windows(name.len()).enumerate();
    let found = windows.filter(|(_, window)| *window == name.as_bytes());
    found.map(|(at, _)| at).collect()
}

/// Writes one name over another; how often.
fn exchange(bytes: &mut [u8], name: &str, other: &str) -> usize {
    assert_eq!(name.len(), other.len());
    let places = places(bytes, name);
    for &at in &places {
        bytes[at..at + name.len()].copy_from_slice(other.as_bytes());
    }
    places.len()
}
