//! Pure tests: no network, no child processes.

mod layering;
