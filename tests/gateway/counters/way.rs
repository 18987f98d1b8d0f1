//! The way to a Redis server, as a Service is one: a test turns it to another server, and holds up
//! or loses what comes from there.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// A loopback port that leads to a server's.
pub struct Way {
    pub port: u16,
    end: Arc<End>,
}

struct End {
    port: AtomicU16,
    answers: Mutex<Answers>,
    changed: Condvar,
}

/// What happens to the bytes that come from the server.
#[derive(Clone, Copy, PartialEq)]
enum Answers {
    Pass,
    Wait,
    Vanish,
}

impl Way {
    pub fn to(port: u16) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Way {
            port: listener.local_addr().unwrap().port(),
            end: Arc::new(End {
                port: AtomicU16::new(port),
                answers: Mutex::new(Answers::Pass),
                changed: Condvar::new(),
            }),
        };
        let end = Arc::clone(&way.end);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // A server that is away refuses the connection: the client's ends then.
                let port = end.port.load(Ordering::SeqCst);
                if let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", port)))
                {
                    join(client, server, &end);
                }
            }
        });
        way
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// New connections go to another port.
    pub fn turn(&self, port: u16) {
        self.end.port.store(port, Ordering::SeqCst);
    }

    /// Answers wait until [`Way::release`] or [`Way::lose`].
    pub fn hold(&self) {
        self.set(Answers::Wait);
    }

    pub fn release(&self) {
        self.set(Answers::Pass);
    }

    /// What waits never arrives: its connection ends.
    pub fn lose(&self) {
        self.set(Answers::Vanish);
    }

    fn set(&self, answers: Answers) {
        *self.end.answers.lock().unwrap() = answers;
        self.end.changed.notify_all();
    }
}

fn join(client: TcpStream, server: TcpStream, end: &Arc<End>) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (asking, answering) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || copy(asking, server, || true));
    let end = Arc::clone(end);
    std::thread::spawn(move || {
        copy(answering, client, || {
            let now = end.answers.lock().unwrap();
            let waits = |now: &mut Answers| *now == Answers::Wait;
            *end.changed.wait_while(now, waits).unwrap() == Answers::Pass
        });
    });
}

/// Until one of them ends, or bytes may not pass; then both end.
fn copy(mut from: TcpStream, mut to: TcpStream, may_pass: impl Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !may_pass() || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
