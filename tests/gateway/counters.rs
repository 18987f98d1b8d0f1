//! Limits that several gateways share, on a real Redis or Valkey server: `PORTCULLIS_TEST_REDIS`
//! names the program.

mod failover;
pub mod server;
mod shared;
pub mod way;
