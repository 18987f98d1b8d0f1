//! Where calls go: what an approval is bound to beside the call itself.
//!
//! In: the upstream of a spec and where stdio servers run. Out: one line for people, and a digest
//! that differs whenever calls would go elsewhere or with another credential. A credential stands
//! in it by its name: another value under that name is the same destination. Must not do: show a
//! value, whether it is a Secret's or was written into the spec.

use serde_json::{Value, json};

use super::plan::Stdio;
use crate::api::server::{HttpUpstream, StdioUpstream, Upstream, UpstreamHeader};
use crate::policy::canonical;
use crate::policy::credential::CredentialVariables;
use crate::protocol::text::printable;

/// Characters that a person is shown.
const MAX_SHOWN_CHARS: usize = 500;

/// Where calls go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// One line for people.
    pub shown: String,
    /// `sha256:` and the digest of all that decides where calls go.
    pub digest: String,
}

impl Destination {
    /// Of a spec.
    pub fn of(upstream: &Upstream, stdio: &Stdio) -> Self {
        // Bounds say how long and how much, not where.
        let Upstream {
            http,
            stdio: server,
            timeout: _,
            max_request_bytes: _,
        } = upstream;
        let (shown, whole) = match (http, server) {
            (Some(http), _) => (self::http(http), json!({ "http": http })),
            (None, Some(server)) => {
                let place = match stdio {
                    // Variables of the command line decide where a server connects to.
                    Stdio::Child { env, user } => {
                        json!({ "env": env, "user": user.as_ref().map(|user| (user.uid, user.gid)) })
                    }
                    Stdio::Bridge { url, bearer } => json!({ "bridge": url, "bearer": bearer }),
                    Stdio::Nowhere => Value::Null,
                };
                let mut stated = server.clone();
                stated.session_idle_timeout = None;
                let whole = json!({ "stdio": stated, "place": place });
                (self::stdio(server, stdio), whole)
            }
            (None, None) => (String::new(), Value::Null),
        };
        let digest = canonical::sha256(canonical::plain(&whole).as_bytes());
        Destination {
            shown: printable(&shown, MAX_SHOWN_CHARS),
            digest: format!("sha256:{}", hex::encode(digest)),
        }
    }

    /// The same for callers with this credential. The digest holds all credentials of the spec and
    /// their callers already: a user who changes one asks again.
    pub fn with(&self, credential: &str) -> Self {
        Destination {
            shown: printable(
                &format!("{} with {credential}", self.shown),
                MAX_SHOWN_CHARS,
            ),
            digest: self.digest.clone(),
        }
    }
}

fn http(http: &HttpUpstream) -> String {
    // Queries hold tokens.
    let url = http.url.split(['?', '#']).next().unwrap_or_default();
    if !http.credentials.is_empty() {
        return url.to_owned();
    }
    let url = match &http.proxy {
        Some(proxy) => format!("{url} through {}", proxy.url),
        None => url.to_owned(),
    };
    match headers(&http.headers) {
        names if names.is_empty() => url,
        names => format!("{url} with {names}"),
    }
}

/// Headers with their sources.
pub(super) fn headers(headers: &[UpstreamHeader]) -> String {
    let names = headers.iter().map(|header| match &header.value_from {
        Some(source) => {
            let reference = &source.secret_key_ref;
            format!(
                "{} from Secret {}/{}",
                header.name, reference.name, reference.key
            )
        }
        None => header.name.clone(),
    });
    let names: Vec<String> = names.collect();
    names.join(", ")
}

/// Variables of a credential, and their Secrets.
pub(super) fn variables(variables: &CredentialVariables) -> String {
    let names: Vec<&str> = variables.names().collect();
    let mut secrets: Vec<&str> = variables.secrets().collect();
    secrets.sort_unstable();
    secrets.dedup();
    match secrets[..] {
        [] => names.join(", "),
        _ => format!("{} from Secret {}", names.join(", "), secrets.join(", ")),
    }
}

fn stdio(server: &StdioUpstream, stdio: &Stdio) -> String {
    let command: Vec<&str> = server
        .command
        .iter()
        .chain(&server.args)
        .map(String::as_str)
        .collect();
    let command = command.join(" ");
    match stdio {
        Stdio::Child { .. } => command,
        Stdio::Bridge { .. } | Stdio::Nowhere => format!("{command} in image {}", server.image),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn of(spec: Value) -> Destination {
        local(spec, &[])
    }

    fn local(spec: Value, env: &[(&str, &str)]) -> Destination {
        let env: BTreeMap<String, String> = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let upstream = serde_json::from_value(spec).unwrap();
        Destination::of(&upstream, &Stdio::Child { env, user: None })
    }

    fn header(value: Value) -> Value {
        let mut header = json!({"name": "Authorization"});
        for (key, value) in value.as_object().unwrap() {
            header[key] = value.clone();
        }
        json!({"http": {"url": "https://mlflow.example/mcp?token=t0p", "headers": [header]}})
    }

    #[test]
    fn it_is_another_one_when_calls_would_go_elsewhere_or_with_another_credential() {
        let from = |name: &str, key: &str| {
            header(json!({"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}))
        };
        let one = of(from("mlflow", "token"));
        assert_eq!(
            one.shown,
            "https://mlflow.example/mcp with Authorization from Secret mlflow/token"
        );
        assert_eq!(one, of(from("mlflow", "token")));
        let mut timed = from("mlflow", "token");
        timed["timeout"] = json!("5s");
        assert_eq!(one.digest, of(timed).digest);
        let written = of(header(json!({"value": "Bearer s3cret"})));
        assert!(!written.shown.contains("s3cret") && !one.shown.contains("t0p"));
        let mut elsewhere = from("mlflow", "token");
        elsewhere["http"]["url"] = json!("https://mlflow.example/mcp?token=other");
        let mut trusted = from("mlflow", "token");
        trusted["http"]["tls"] = json!({"caSecretRef": {"name": "ca", "key": "ca.crt"}});
        for other in [
            of(from("mlflow", "admin")),
            of(from("admin", "token")),
            of(elsewhere),
            of(trusted),
            written,
            of(header(json!({"value": "Bearer other"}))),
        ] {
            assert_ne!(one.digest, other.digest, "{other:?}");
        }
    }

    #[test]
    fn of_a_stdio_server_it_is_all_that_it_is_started_with() {
        let server = json!({"stdio": {"image": "mlflow-mcp:1", "command": ["mlflow-mcp"], "args": ["--safe"],
            "env": [{"name": "MLFLOW_TRACKING_URI", "value": "http://a"}]}});
        let one = of(server.clone());
        assert_eq!(one.shown, "mlflow-mcp --safe");
        let with = |field: &str, value: Value| {
            let mut server = server.clone();
            server["stdio"][field] = value;
            of(server)
        };
        for other in [
            with("image", json!("mlflow-mcp:2")),
            with("command", json!(["evil"])),
            with("args", json!([])),
            with(
                "env",
                json!([{"name": "MLFLOW_TRACKING_URI", "value": "http://b"}]),
            ),
            with("envFrom", json!([{"secretRef": {"name": "admin"}}])),
            with("serviceAccountName", json!("admin")),
            local(server.clone(), &[("MLFLOW_TRACKING_URI", "http://b")]),
        ] {
            assert_ne!(one.digest, other.digest, "{other:?}");
        }
    }
}
