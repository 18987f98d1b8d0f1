//! MCP on the wire: strict envelopes, the method table, versions, headers, SSE, list filtering,
//! answers, sealing.
//!
//! In: bytes and header values. Out: typed messages that borrow from them, and bytes to send. Pure:
//! no I/O, no clock (time is an argument), no policy (callbacks decide); random bytes only where
//! something is sealed. Input that cannot be read strictly is refused, never passed on unchanged.

pub mod answer;
pub mod declared;
pub mod emit;
pub mod envelope;
pub mod era;
pub mod forward;
pub mod header;
pub mod keys;
pub mod list;
pub mod method;
pub mod refused;
pub mod replay;
pub mod seal;
pub mod sse;
pub mod text;
pub mod version;
