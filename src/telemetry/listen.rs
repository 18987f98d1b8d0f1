//! Listening sockets.
//!
//! In: an address. Out: a listener, or why not and which flag to change.

use std::net::{Ipv4Addr, SocketAddr};

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// The address cannot be bound.
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

/// Listens. Every address of both families (`[::]`) falls back to every IPv4 address where the
/// machine has no IPv6.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_address_of_both_families_takes_calls_over_ipv4() {
        let listener = bind("[::]:0".parse().unwrap(), "--listen").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = tokio::net::TcpStream::connect(("127.0.0.1", port));
        let (accepted, connected) = tokio::join!(listener.accept(), client);
        accepted.unwrap();
        connected.unwrap();
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_the_flag_to_change() {
        let taken = bind("127.0.0.1:0".parse().unwrap(), "--listen").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(
            bind(address, "--admin-listen").unwrap_err().to_string(),
            format!(
                "cannot listen at {address}: another program uses this port; choose another with --admin-listen"
            )
        );
    }

    #[test]
    fn only_a_machine_without_ipv6_is_served_over_ipv4_alone() {
        let refused = |errno: Errno| std::io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(no_ipv6(&refused(Errno::AFNOSUPPORT)) && no_ipv6(&refused(Errno::ADDRNOTAVAIL)));
        assert!(!no_ipv6(&refused(Errno::ADDRINUSE)) && !no_ipv6(&refused(Errno::ACCESS)));
    }
}
