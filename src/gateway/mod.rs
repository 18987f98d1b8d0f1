//! The data plane. In: MCP over HTTP. Out: MCP to an upstream, under policy. It must not reach for Kubernetes types.

/// Streamable HTTP in front of a server that speaks stdio.
pub mod bridge;
/// The servers being protected.
pub mod upstream;
