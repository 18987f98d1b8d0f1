//! In-process gateway, real sockets, real and fake MCP servers.

#[cfg(test)]
mod bridge;
