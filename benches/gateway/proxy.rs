//! The yardstick: a proxy of hyper's own parts that streams what it gets and reads nothing of it.

use std::net::SocketAddr;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{Done, listen};

/// Serves until the process ends.
pub async fn run(target: SocketAddr) -> Done<()> {
    let listener = listen().await?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    let uri: http::Uri = format!("http://{target}/mcp").parse()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, uri) = (client.clone(), uri.clone());
        tokio::spawn(async move {
            let service = service_fn(move |mut request: http::Request<Incoming>| {
                *request.uri_mut() = uri.clone();
                client.request(request)
            });
            http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
        });
    }
}
