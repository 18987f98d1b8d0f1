//! Listening sockets.
//!
//! In: an address. Out: a listener, or why not and which flag to change.

use std::net::{Ipv4Addr, SocketAddr};

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// The port is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}: {why}; choose another with {flag}")]
pub struct ListenError {
    /// Where.
    address: SocketAddr,
    /// Why not.
    why: String,
    /// The option that names the address.
    flag: &'static str,
}

/// Listens. Every address of both families (`[::]`) falls back to every IPv4 address where the machine has no IPv6.
///
/// # Errors
/// [`ListenError`] says which flag to change.
pub fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ListenError> {
    let bound = match listen(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    };
    bound.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program uses this port".to_owned(),
            std::io::ErrorKind::PermissionDenied => "this user may not use this port".to_owned(),
            _ => error.to_string(),
        };
        ListenError { address, why, flag }
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(v6) => {
            let socket = TcpSocket::new_v6()?;
            if v6.ip().is_unspecified() {
                // Whatever the machine's default is: `[::]` stands for IPv4 too.
                rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
            }
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn no_ipv6(error: &std::io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
