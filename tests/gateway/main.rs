//! In-process gateway, real sockets, real and fake MCP servers.

#[cfg(test)]
mod bridge;
#[cfg(test)]
mod serve;
