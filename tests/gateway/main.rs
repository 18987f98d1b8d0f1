//! In-process gateway, real sockets, real and fake MCP servers.

mod bridge;
mod examples;
mod sdk;
mod serve;
mod support;
mod wire;
