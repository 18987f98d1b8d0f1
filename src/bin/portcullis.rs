//! Arguments to telemetry to run.

fn main() {}
