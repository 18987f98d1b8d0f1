//! Pure tests: no network, no child processes.
