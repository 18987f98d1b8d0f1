//! Why an upstream cannot be used, in words for the person who configured it.
//!
//! In: an error of the upstream, or the status of an answer without a message. Out: one line that
//! names the field to change, where one is known. Must not do: hold a header's value, or anything
//! that an agent is shown.

use std::error::Error;
use std::io::ErrorKind;

use http::StatusCode;
use rustls::CertificateError;

use super::proxy::ProxyFailed;

/// The error with its causes and what to do about it. `own_pod`: the upstream is a pod that the
/// operator runs, at an address that no user has written.
pub fn of_error(error: &(dyn Error + 'static), own_pod: bool) -> String {
    let mut text = error.to_string();
    let mut advice = None;
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        advice = advice.or_else(|| advice_on(cause));
        next = cause.source();
    }
    match advice {
        Some(_) if own_pod => format!("the server's pod takes no connections ({text})"),
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// What to do about one cause. An `io::Error` does not show the error that it wraps as its source.
fn advice_on(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        let wrapped = error.get_ref().and_then(|inner| advice_on(inner));
        return wrapped.or_else(|| advice_on_io(error.kind()));
    }
    if cause.is::<ProxyFailed>() {
        return Some(
            "correct spec.upstream.http.proxy and what its credentialsSecretRef names or, where the spec has none, HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the gateway's environment",
        );
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        return error
            .is_parse()
            .then_some("it does not answer in HTTP; if it speaks TLS, write https:// in spec.upstream.http.url");
    }
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return advice_on_tls(error);
    }
    cause.to_string().starts_with("dns error").then_some(
        "the host in spec.upstream.http.url has no address here; correct it, for example NAME.NAMESPACE.svc",
    )
}

fn advice_on_io(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::ConnectionRefused => Some(
            "nothing listens there; start the server, or correct host and port in spec.upstream.http.url",
        ),
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some(
            "the network does not let the connection through; check host and port in spec.upstream.http.url and the network policies",
        ),
        _ => None,
    }
}

fn advice_on_tls(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(certificate) => Some(match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the authority that signed its certificate is not trusted; put that authority's certificate into a Secret and name it in spec.upstream.http.tls.caSecretRef"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name; use a name of the certificate in spec.upstream.http.url"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired; renew it at the server"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; check the clocks, or renew it at the server"
            }
            _ => "its certificate is not acceptable; replace it at the server",
        }),
        rustls::Error::InvalidMessage(_) => {
            Some("it does not speak TLS; write http:// in spec.upstream.http.url")
        }
        _ => None,
    }
}

/// What an answer of that status means when it holds no MCP message.
pub fn of_status(status: StatusCode) -> String {
    let advice = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "it does not accept the credentials; correct spec.upstream.http.headers"
        }
        StatusCode::NOT_FOUND => {
            "no MCP server is at that path; correct the path in spec.upstream.http.url, which is often /mcp"
        }
        StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            "what is at that path does not speak Streamable HTTP; correct the path in spec.upstream.http.url, which is often /mcp"
        }
        StatusCode::MISDIRECTED_REQUEST => {
            "it does not serve that host name; write the name that it serves into spec.upstream.http.host, or allow this one at the server"
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            "the proxy asks for credentials; name a Secret with USER:PASSWORD in spec.upstream.http.proxy.credentialsSecretRef"
        }
        StatusCode::TOO_MANY_REQUESTS => "it limits how often it may be asked",
        status if status.is_server_error() => {
            "the server, or a proxy in front of it, fails; look at its log"
        }
        _ => "that is not an answer of an MCP server; correct spec.upstream.http.url",
    };
    format!("it answered HTTP {status}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error of the client around one of the system.
    #[derive(Debug, thiserror::Error)]
    #[error("the upstream cannot be reached")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn nobody_is_sent_to_a_url_that_the_operator_chose() {
        let error = Outer(ErrorKind::ConnectionRefused.into());
        assert_eq!(
            of_error(&error, false),
            "the upstream cannot be reached: connection refused; nothing listens there; start the server, or correct host and port in spec.upstream.http.url"
        );
        assert_eq!(
            of_error(&error, true),
            "the server's pod takes no connections (the upstream cannot be reached: connection refused)"
        );
    }
}
