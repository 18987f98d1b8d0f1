//! The stdio bridge in front of a scripted child, and of the real `mlflow-mcp`.

mod harness;
mod listener;
mod lives;
mod mlflow;
mod per_session;
mod process;
mod shared;
