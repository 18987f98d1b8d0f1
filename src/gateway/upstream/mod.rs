//! The servers that are protected, and how they are reached.

/// Child processes that speak MCP over stdin and stdout.
pub mod stdio;
