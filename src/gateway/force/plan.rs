//! How the upstream of a bundle is reached, with every reference resolved: two equal plans are the
//! same upstream, so that a policy change never restarts a server or drops a connection.
//!
//! In: the upstream of a spec, Secrets. Out: a [`Plan`]. Must not do: start or connect anything;
//! `upstream::connect` does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use k8s_openapi::api::core::v1::EnvVar;

use super::secrets::Lookup;
use crate::api::server::{HttpUpstream, Sessions, StdioUpstream, Upstream, UpstreamHeader};
use crate::gateway::bridge::{ANOTHER_BEARER, CREDENTIAL, OWN_CREDENTIAL};
use crate::gateway::upstream::stdio::RunAs;

/// A resolved upstream. Holds secret values: never to be shown, so it has no `Debug`.
#[derive(Clone, PartialEq)]
pub enum Plan {
    /// Streamable HTTP.
    Http {
        /// The endpoint.
        url: String,
        /// Headers with their values.
        headers: Vec<(String, Vec<u8>)>,
        /// PEM certificates that alone are trusted.
        ca: Option<Vec<u8>>,
        /// What it gets as Host, if not what the URL says.
        host: Option<String>,
        /// The proxy that the spec names, and USER:PASSWORD for it.
        proxy: Option<(String, Option<Vec<u8>>)>,
        /// It is the bridge of our own stdio server, which shares its sessions among callers.
        bridge: bool,
    },
    /// A child process.
    Stdio {
        /// The program.
        command: OsString,
        /// Its arguments.
        args: Vec<OsString>,
        /// Its environment beside PATH, HOME and LANG.
        env: Vec<(OsString, OsString)>,
        /// One child for all sessions, or one for each.
        sessions: Sessions,
        /// A session that is not used for this long ends.
        session_idle: Duration,
        /// Whom it runs as, if not as the user of this process.
        user: Option<RunAs>,
    },
}

/// Where stdio servers run.
#[derive(Clone, Debug)]
pub enum Stdio {
    /// As children of this process.
    Child {
        /// Variables over what the spec says, by name.
        env: BTreeMap<String, String>,
        /// Whom they run as, if not as the user of this process.
        user: Option<RunAs>,
    },
    /// In a pod of their own, behind a bridge.
    Bridge {
        /// The bridge's endpoint.
        url: String,
        /// The Secret, and its key, that holds what the bridge wants to see as a bearer.
        bearer: (String, String),
    },
    /// Nowhere: the bridge's address is not configured, and a gateway in a cluster starts no
    /// servers.
    Nowhere,
}

impl Plan {
    /// Resolves the references of a spec.
    ///
    /// `lookup` reports what is missing; the plan is then None.
    ///
    /// # Errors
    /// What cannot work here, with the field that asks for it.
    pub fn resolve(
        upstream: &Upstream,
        stdio: &Stdio,
        lookup: &mut Lookup<'_>,
    ) -> Result<Option<Plan>, String> {
        match (&upstream.http, &upstream.stdio, stdio) {
            (Some(http), None, _) => Ok(Self::http(http, lookup)),
            (None, Some(spec), Stdio::Child { env, user }) => {
                Self::child(spec, env, user.as_ref(), lookup)
            },
            (None, Some(spec), Stdio::Bridge { url, bearer }) => {
                let by_caller = !spec.credentials.is_empty();
                let credential = by_caller.then_some(OWN_CREDENTIAL);
                Self::bridge(url, bearer, credential, lookup)
            },
            (None, Some(_), Stdio::Nowhere) => Err(
                "spec.upstream.stdio: the address of the server's pod is missing; start the gateway with --upstream-url and --upstream-bearer-file"
                    .to_owned(),
            ),
            _ => Err("spec.upstream: write exactly one of http and stdio".to_owned()),
        }
    }

    /// Whether both are the bridge of our own server, of which only the bearer differs.
    pub fn is_same_bridge(&self, other: &Plan) -> bool {
        let address = |plan: &Plan| match plan {
            Plan::Http {
                url, bridge: true, ..
            } => Some(url.clone()),
            _ => None,
        };
        address(self).is_some() && address(self) == address(other)
    }

    fn http(http: &HttpUpstream, lookup: &mut Lookup<'_>) -> Option<Plan> {
        Self::http_with(http, &http.headers, lookup)
    }

    /// The endpoint with these headers and no others.
    pub(super) fn http_with(
        http: &HttpUpstream,
        stated: &[UpstreamHeader],
        lookup: &mut Lookup<'_>,
    ) -> Option<Plan> {
        let mut headers = Some(Vec::new());
        for header in stated {
            let value = match (&header.value, &header.value_from) {
                (Some(value), _) => Some(value.clone().into_bytes()),
                (None, Some(source)) => lookup.reference(&source.secret_key_ref),
                (None, None) => Some(Vec::new()),
            };
            match value {
                Some(value) => headers
                    .iter_mut()
                    .for_each(|headers| headers.push((header.name.clone(), value.clone()))),
                None => headers = None,
            }
        }
        let ca = match http.tls.as_ref().and_then(|tls| tls.ca_secret_ref.as_ref()) {
            Some(reference) => Some(lookup.reference(reference)?),
            None => None,
        };
        let proxy = match &http.proxy {
            Some(proxy) => {
                let credentials = match &proxy.credentials_secret_ref {
                    Some(reference) => Some(lookup.reference(reference)?),
                    None => None,
                };
                Some((proxy.url.clone(), credentials))
            }
            None => None,
        };
        Some(Plan::Http {
            url: http.url.clone(),
            headers: headers?,
            ca,
            host: http.host.clone(),
            proxy,
            bridge: false,
        })
    }

    /// The bridge in the server's pod; `credential` names what the process of a session gets, where
    /// that differs by caller.
    pub(super) fn bridge(
        url: &str,
        (name, key): &(String, String),
        credential: Option<&str>,
        lookup: &mut Lookup<'_>,
    ) -> Result<Option<Plan>, String> {
        let Some(bearer) = lookup.key(name, key, false) else {
            return Ok(None);
        };
        // While the Secret changes, it has several lines: it is not known which one the bridge has
        // read.
        let bearers: Vec<&[u8]> = bearer
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|bearer| !bearer.is_empty())
            .collect();
        let visible = bearers.concat().iter().all(u8::is_ascii_graphic);
        let Some((bearer, others)) = bearers.split_first().filter(|_| visible) else {
            return Err(format!(
                "spec.upstream.stdio: the bearer for the server's pod in {name}/{key} is not visible ASCII; delete that Secret, and the operator creates it again"
            ));
        };
        let mut headers = vec![("Authorization".to_owned(), [b"Bearer ", *bearer].concat())];
        let another = |other: &&[u8]| (ANOTHER_BEARER.as_str().to_owned(), other.to_vec());
        headers.extend(others.iter().map(another));
        headers.extend(credential.map(|id| (CREDENTIAL.to_owned(), id.as_bytes().to_vec())));
        Ok(Some(Plan::Http {
            url: url.to_owned(),
            headers,
            ca: None,
            host: None,
            proxy: None,
            bridge: true,
        }))
    }

    fn child(
        stdio: &StdioUpstream,
        overrides: &BTreeMap<String, String>,
        user: Option<&RunAs>,
        lookup: &mut Lookup<'_>,
    ) -> Result<Option<Plan>, String> {
        let (command, leading) = stdio
            .command
            .split_first()
            .ok_or_else(|| "spec.upstream.stdio.command: name the program to run".to_owned())?;
        // Later entries win, as in a pod: envFrom, then env, then what the command line says.
        let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut complete = true;
        for (at, source) in stdio.env_from.iter().enumerate() {
            let prefix = source.prefix.as_deref().unwrap_or_default();
            let Some(secret) = &source.secret_ref else {
                return Err(format!(
                    "spec.upstream.stdio.envFrom[{at}]: outside a cluster only a secretRef can be read; give the values with --env"
                ));
            };
            let optional = secret.optional == Some(true);
            match lookup.all(&secret.name, optional) {
                Some(keys) => {
                    values.extend(
                        keys.into_iter()
                            .map(|(key, value)| (format!("{prefix}{key}"), value)),
                    );
                }
                None if optional => {}
                None => complete = false,
            }
        }
        for (at, variable) in stdio.env.iter().enumerate() {
            if overrides.contains_key(&variable.name) {
                continue;
            }
            match env_value(variable, at, lookup)? {
                Value::Is(value) => {
                    values.insert(variable.name.clone(), value);
                }
                Value::Unset => {}
                Value::Missing => complete = false,
            }
        }
        values.extend(
            overrides
                .iter()
                .map(|(name, value)| (name.clone(), value.clone().into_bytes())),
        );
        if !complete {
            return Ok(None);
        }
        let mut env = Vec::with_capacity(values.len());
        for (name, value) in values {
            let value = String::from_utf8(value)
                .ok()
                .filter(|value| !value.contains('\0'))
                .ok_or_else(|| {
                    format!("the environment variable {name} of spec.upstream.stdio is not text")
                })?;
            env.push((name.into(), value.into()));
        }
        Ok(Some(Plan::Stdio {
            command: command.into(),
            args: leading.iter().chain(&stdio.args).map(Into::into).collect(),
            env,
            sessions: stdio.sessions(),
            session_idle: stdio
                .session_idle_timeout()
                .parse()
                .map_err(|error| format!("spec.upstream.stdio.sessionIdleTimeout: {error}"))?,
            user: user.cloned(),
        }))
    }
}

enum Value {
    Is(Vec<u8>),
    /// Optional and not there: the variable is left out, as in a pod.
    Unset,
    /// Required but missing: the lookup reports it.
    Missing,
}

fn env_value(variable: &EnvVar, at: usize, lookup: &mut Lookup<'_>) -> Result<Value, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Value::Is(
            variable.value.clone().unwrap_or_default().into_bytes(),
        ));
    };
    let Some(secret) = &source.secret_key_ref else {
        return Err(format!(
            "spec.upstream.stdio.env[{at}] ({}): outside a cluster only a secretKeyRef can be read; give the value with --env {}=VALUE",
            variable.name, variable.name
        ));
    };
    let optional = secret.optional == Some(true);
    Ok(match lookup.key(&secret.name, &secret.key, optional) {
        Some(value) => Value::Is(value),
        None if optional => Value::Unset,
        None => Value::Missing,
    })
}
