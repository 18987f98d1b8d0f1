//! `portcullis-operator check`: whether a program of ours answers. The images hold nothing else
//! that could ask.
//!
//! In: a plain HTTP URL, and how long to keep asking. Out: success for 200, else what was answered
//! last.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::controller::args::seconds;

/// For one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Ask a URL until it answers 200
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// An http URL, such as that of /readyz
    #[arg(long, value_name = "URL")]
    pub url: Uri,
    /// Give up when every answer was another one for this long; 0s asks once
    #[arg(long, default_value = "30s", value_parser = seconds, value_name = "DURATION")]
    pub within: Duration,
}

/// Why the check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{0} is not an http URL with a host; write http://HOST:PORT/PATH")]
    Url(Uri),
    #[error("{0} cannot be reached: {1}")]
    Connect(Uri, #[source] std::io::Error),
    #[error("{0} does not answer: {1}")]
    Http(Uri, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} answers {1}")]
    Status(Uri, StatusCode),
    #[error("{0} did not answer within {seconds} s", seconds = ANSWER_TIMEOUT.as_secs())]
    Late(Uri),
}

/// Asks, at least once. Prints why it keeps asking, each time the reason changes: behind a
/// Service that has just got its first pod there may be no answer yet, or one that is not ready.
pub async fn check(args: CheckArgs, mut tell: impl FnMut(&str)) -> Result<(), CheckError> {
    let CheckArgs { url, within } = args;
    let until = Instant::now() + within;
    let mut told = String::new();
    loop {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, ask(&url)).await;
        let error = match asked.unwrap_or_else(|_| Err(CheckError::Late(url.clone()))) {
            Ok(()) => return Ok(()),
            Err(error @ CheckError::Url(_)) => return Err(error),
            Err(error) => error,
        };
        if Instant::now() + RETRY_INTERVAL > until {
            return Err(error);
        }
        let why = error.to_string();
        if why != told {
            tell(&why);
            told = why;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
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

    /// What comes of asking a server that gives these answers, one after the other, and what it
    /// printed meanwhile.
    async fn against(
        answers: &'static [&'static str],
        within: &str,
    ) -> (Result<(), CheckError>, Vec<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1_024];
                let _ = stream.read(&mut buffer).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut told = Vec::new();
        let args = CheckArgs {
            url: url.parse().unwrap(),
            within: seconds(within).unwrap(),
        };
        let result = check(args, |why| told.push(why.replace(&url, "URL"))).await;
        (result, told)
    }

    const READY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const UNREADY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

    #[tokio::test]
    async fn it_succeeds_for_200_only() {
        assert!(against(&[READY], "0s").await.0.is_ok());
        let (unready, told) = against(&[UNREADY], "0s").await;
        assert!(matches!(
            unready,
            Err(CheckError::Status(_, StatusCode::SERVICE_UNAVAILABLE))
        ));
        assert_eq!(told, [""; 0]);
        let (other, _) = against(&["what?"], "0s").await;
        assert!(matches!(other, Err(CheckError::Http(..))));
    }

    #[tokio::test]
    async fn it_goes_on_asking_and_says_once_what_it_waits_for() {
        let (result, told) = against(&[UNREADY, UNREADY, "what?", READY], "1h").await;
        assert!(result.is_ok());
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0], "URL answers 503 Service Unavailable");
        assert!(told[1].starts_with("URL does not answer: "), "{told:?}");
    }

    #[tokio::test]
    async fn it_does_not_ask_what_can_never_answer() {
        let args = CheckArgs {
            url: "https://example.com/".parse().unwrap(),
            within: Duration::from_secs(3600),
        };
        let never = check(args, |why| panic!("told {why}")).await;
        assert!(matches!(never, Err(CheckError::Url(_))));
    }
}
