//! In-process gateway, real sockets, real and fake MCP servers.

#[cfg(test)]
mod bridge;
#[cfg(test)]
mod sdk;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod support;
#[cfg(test)]
mod wire;
