//! `portcullis-operator check`: whether a program of ours answers. The images hold nothing else that could ask.
//!
//! In: a plain HTTP URL. Out: success for 200, else what was answered.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(10);

/// Ask a URL once; succeed if it answers 200
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// An http URL, such as that of /readyz
    #[arg(long, value_name = "URL")]
    pub url: Uri,
}

/// Why the check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{0} is no http URL with a host; write http://HOST:PORT/PATH")]
    Url(Uri),
    #[error("{0} cannot be reached: {1}")]
    Connect(Uri, #[source] std::io::Error),
    #[error("{0} does not answer: {1}")]
    Http(Uri, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} answers {1}")]
    Status(Uri, StatusCode),
    #[error("{0} did not answer within {seconds} s", seconds = WITHIN.as_secs())]
    Late(Uri),
}

/// Asks once.
pub async fn check(args: CheckArgs) -> Result<(), CheckError> {
    let url = args.url;
    let asked = tokio::time::timeout(WITHIN, ask(&url)).await;
    asked.unwrap_or_else(|_| Err(CheckError::Late(url.clone())))
}

async fn ask(url: &Uri) -> Result<(), CheckError> {
    let wrong = || CheckError::Url(url.clone());
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| CheckError::Http(url.clone(), error);
    if url.scheme_str() != Some("http") {
        return Err(wrong());
    }
    let authority = url.authority().ok_or_else(wrong)?;
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| CheckError::Connect(url.clone(), error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.into()))?;
    let driver = tokio::spawn(connection);
    let request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority.as_str())
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(error.into()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(error.into()));
    driver.abort();
    match response?.status() {
        StatusCode::OK => Ok(()),
        status => Err(CheckError::Status(url.clone(), status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn against(answer: &'static str) -> Result<(), CheckError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1_024];
            let _ = stream.read(&mut buffer).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        check(CheckArgs {
            url: url.parse().unwrap(),
        })
        .await
    }

    #[tokio::test]
    async fn it_succeeds_for_200_only() {
        assert!(
            against("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await
                .is_ok()
        );
        let unready =
            against("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        assert!(matches!(
            unready,
            Err(CheckError::Status(_, StatusCode::SERVICE_UNAVAILABLE))
        ));
        assert!(matches!(against("what?").await, Err(CheckError::Http(..))));
        let other = check(CheckArgs {
            url: "https://example.com/".parse().unwrap(),
        })
        .await;
        assert!(matches!(other, Err(CheckError::Url(_))));
    }
}
