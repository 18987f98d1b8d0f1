//! `portcullis-gateway run` as a pod runs it: the real program, files where a kubelet mounts them,
//! and an API server that is silent, so that what is mounted has to do.

mod bundles;
mod install;
mod logs;
mod pod;
mod secrets;
mod stdio;
mod stop;
mod tls;
