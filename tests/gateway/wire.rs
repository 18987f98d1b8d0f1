//! The gateway over real sockets: what gets through to the server behind it, what does not, and
//! what the client is told.

mod answers;
mod approvals;
mod causes;
mod credentials;
mod forwarding;
mod handshakes;
mod kinds;
mod leniency;
mod limits;
mod lists;
mod logins;
mod notices;
mod observation;
mod parsing;
mod progress;
mod proxies;
mod records;
mod reload;
pub mod renewal;
mod sessions;
mod shares;
mod stdio;
mod streams;
mod tokens;
mod upstreams;
