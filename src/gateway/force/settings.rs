//! The settings of a server's spec that requests need, parsed once.
//!
//! In: a spec. Out: bounds, names that are let in, features. Must not do: read Secrets.

use std::time::Duration;

use super::rejected::Rejected;
use crate::api::Switch;
use crate::api::server::{AuditArguments, AuditFailure, Instructions, McpServerSpec};
use crate::protocol::header::AllowedHosts;
use crate::protocol::method::Feature;

/// The spec's settings, parsed once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For a whole call.
    pub timeout: Duration,
    /// The largest request body.
    pub max_request_bytes: usize,
    /// Further values of `Origin` that are accepted.
    pub allowed_origins: Vec<String>,
    /// Further values of `Host` that are accepted.
    pub allowed_hosts: AllowedHosts,
    /// How agents reach the gateway, if not by the name that they write into `Host`.
    pub public_url: Option<String>,
    /// The path of `public_url`, without a slash at its end, if it has one.
    pub public_path: Option<String>,
    instructions: Option<Instructions>,
    sampling: bool,
    elicitation: bool,
    roots: bool,
    /// What the audit log says about the arguments of a call.
    pub audit: AuditArguments,
    /// Whether calls that cannot be recorded are refused.
    pub must_record: bool,
}

impl Settings {
    /// Reads a spec.
    ///
    /// # Errors
    /// Names the field.
    pub fn of(spec: &McpServerSpec) -> Result<Settings, Rejected> {
        let setting = |field: &str, error: &dyn std::fmt::Display| {
            Rejected::Setting(format!("{field}: {error}"))
        };
        let timeout = spec
            .upstream
            .timeout()
            .parse()
            .map_err(|error| setting("spec.upstream.timeout", &error))?;
        let bytes = spec
            .upstream
            .max_request_bytes()
            .parse()
            .map_err(|error| setting("spec.upstream.maxRequestBytes", &error))?;
        let features = spec.client_features();
        let gateway = spec.gateway();
        let mut allowed_hosts = AllowedHosts::default();
        allowed_hosts.extend(gateway.allowed_hosts);
        allowed_hosts.extend(gateway.public_url.as_deref().and_then(host_of));
        Ok(Settings {
            timeout,
            max_request_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            allowed_origins: gateway.allowed_origins,
            allowed_hosts,
            public_path: gateway.public_url.as_deref().and_then(path_of),
            public_url: gateway.public_url,
            instructions: spec.instructions,
            sampling: features.sampling() == Switch::Allow,
            elicitation: features.elicitation() == Switch::Allow,
            roots: features.roots() == Switch::Allow,
            audit: spec.audit_arguments(),
            must_record: spec.audit_on_failure() == AuditFailure::Deny,
        })
    }

    /// Whether the server may ask the client for it.
    pub fn allows(&self, feature: Feature) -> bool {
        match feature {
            Feature::Sampling => self.sampling,
            Feature::Elicitation => self.elicitation,
            Feature::Roots => self.roots,
        }
    }

    /// Whether a caller gets the server's instructions; `hides` is whether anything is hidden from
    /// that caller.
    pub fn passes_instructions(&self, hides: impl FnOnce() -> bool) -> bool {
        match self.instructions {
            Some(Instructions::Pass) => true,
            Some(Instructions::Drop) => false,
            None => !hides(),
        }
    }

    /// The capabilities that are taken out of a client's `initialize`.
    pub fn stripped_capabilities(&self) -> Vec<&'static str> {
        // Tasks from server to client are not carried, so they are not declared.
        let all = [
            ("sampling", self.sampling),
            ("elicitation", self.elicitation),
            ("roots", self.roots),
            ("tasks", false),
        ];
        all.into_iter()
            .filter(|(_, allowed)| !allowed)
            .map(|(name, _)| name)
            .collect()
    }
}

/// The path of a URL that has one.
fn path_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    let path = uri.path().trim_end_matches('/');
    (!path.is_empty()).then(|| path.to_owned())
}

/// The authority of a URL.
fn host_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    uri.authority()
        .map(|authority| authority.as_str().to_owned())
}
