//! What is in force at one moment, in one immutable value: rules bound to tools, settings, credentials, upstream.
//!
//! In: a bundle, the latest listing, Secrets. Out: a [`Snapshot`] that requests read without a lock of their own. A bundle
//! that cannot be compiled, or that is older than the one in force, changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

pub mod plan;
pub mod secrets;

use self::plan::Plan;
use self::secrets::{Lookup, Secrets};
use super::audit::Arguments;
use super::bridge::{self, Bridge, BridgeConfig};
use super::grants::Grants;
use super::upstream::{HttpUpstream, Upstream};
use crate::api::Switch;
use crate::api::server::{AuditArguments, McpServerSpec, Sessions};
use crate::json;
use crate::policy::bundle::{Bundle, BundleServer};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::{Bound, Definition, Program};
use crate::protocol::method::Feature;

/// Everything that requests are answered by.
pub struct Snapshot {
    /// The bundle's revision.
    pub revision: String,
    /// The server, its spec included.
    pub server: Arc<BundleServer>,
    /// What of the spec requests need, parsed.
    pub settings: Settings,
    /// Rules bound to tools.
    pub bound: Arc<Bound>,
    /// Whether the tools are from a listing; until the first one nothing is known.
    pub listed: bool,
    /// Accepted credentials.
    pub grants: Arc<Grants>,
    /// The upstream.
    pub upstream: Arc<Upstream>,
}

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
    pub allowed_hosts: Vec<String>,
    sampling: bool,
    elicitation: bool,
    roots: bool,
    audit: AuditArguments,
}

/// Why a bundle is not put into force.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// Its rules do not compile.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Diagnostics(Vec<Diagnostic>),
    /// It is older than what is in force.
    #[error(
        "the bundle has sequence {offered} and {in_force} is in force; an older bundle is never put back"
    )]
    Older {
        /// What came.
        offered: u64,
        /// What is there.
        in_force: u64,
    },
    /// A setting cannot be used here.
    #[error("{0}")]
    Setting(String),
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
        let mut allowed_hosts = gateway.allowed_hosts;
        if let Some(host) = gateway.public_url.as_deref().and_then(host_of) {
            allowed_hosts.push(host);
        }
        Ok(Settings {
            timeout,
            max_request_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            allowed_origins: gateway.allowed_origins,
            allowed_hosts,
            sampling: features.sampling() == Switch::Allow,
            elicitation: features.elicitation() == Switch::Allow,
            roots: features.roots() == Switch::Allow,
            audit: spec.audit_arguments(),
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

/// The authority of a URL.
fn host_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    uri.authority()
        .map(|authority| authority.as_str().to_owned())
}

impl Snapshot {
    /// The arguments of a call, as `spec.audit.arguments` says; None for nothing, or if they are not JSON.
    pub fn audited_arguments<'a>(&self, tool: &str, arguments: &'a [u8]) -> Option<Arguments<'a>> {
        if arguments.is_empty() {
            return None;
        }
        match self.settings.audit {
            AuditArguments::None => None,
            AuditArguments::Keys => {
                let members = json::members(arguments).ok()?;
                let keys = members.into_iter().map(|member| member.key);
                Some(Arguments::Keys(keys.collect()))
            }
            AuditArguments::Full => {
                let redact = self.bound.tool(tool).map_or(&[][..], |tool| &tool.redact);
                let text = crate::policy::approval::redacted(arguments, redact).ok()?;
                RawValue::from_string(text).ok().map(Arguments::Full)
            }
        }
    }
}

/// What a gateway is made of apart from bundles.
pub struct Environment {
    /// Where Secrets come from.
    pub secrets: Box<dyn Secrets>,
    /// Overrides for the environment of a stdio server.
    pub env: BTreeMap<String, String>,
}

/// Builds snapshots, one after the other.
pub struct Builder {
    environment: Environment,
    bundle: Option<Bundle>,
    program: Option<Arc<Program>>,
    listing: Option<Vec<Definition>>,
    upstream: Option<(Plan, Arc<Upstream>)>,
    missing: Vec<String>,
    keys: Option<KeysSeen>,
}

type KeysSeen = (Option<BTreeMap<String, Vec<u8>>>, bool, Arc<Grants>);

impl Builder {
    /// Nothing is in force yet.
    pub fn new(environment: Environment) -> Self {
        Builder {
            environment,
            bundle: None,
            program: None,
            listing: None,
            upstream: None,
            missing: Vec::new(),
            keys: None,
        }
    }

    /// Puts a bundle into force.
    ///
    /// # Errors
    /// [`Rejected`]; what was in force stays. `Ok(None)` when a Secret is missing: see [`Self::missing`].
    pub fn bundle(&mut self, bundle: Bundle) -> Result<Option<Arc<Snapshot>>, Rejected> {
        if let Some(in_force) = &self.bundle
            && bundle.sequence < in_force.sequence
        {
            return Err(Rejected::Older {
                offered: bundle.sequence,
                in_force: in_force.sequence,
            });
        }
        let unsupported = crate::policy::compile::unsupported(&bundle.server.spec);
        if !unsupported.is_empty() {
            return Err(Rejected::Diagnostics(unsupported));
        }
        let program =
            Arc::new(crate::policy::compile::compile(&bundle).map_err(Rejected::Diagnostics)?);
        Settings::of(&bundle.server.spec)?;
        // Tried before anything is replaced, so that a bundle that fails half-way changes nothing.
        let before = (self.bundle.replace(bundle), self.program.replace(program));
        self.build()
            .inspect_err(|_| (self.bundle, self.program) = before)
    }

    /// Takes a new listing of the upstream's tools; None if nothing changed.
    pub fn listing(&mut self, listing: Vec<Definition>) -> Result<Option<Arc<Snapshot>>, Rejected> {
        if self.listing.as_ref() == Some(&listing) {
            return Ok(None);
        }
        self.listing = Some(listing);
        self.build()
    }

    /// Whether this is the upstream of the snapshot that was built last.
    pub fn is_upstream(&self, upstream: &Arc<Upstream>) -> bool {
        matches!(&self.upstream, Some((_, own)) if Arc::ptr_eq(own, upstream))
    }

    /// Reads the Secrets again.
    ///
    /// # Errors
    /// [`Rejected`] when what they hold cannot be used.
    pub fn again(&mut self) -> Result<Option<Arc<Snapshot>>, Rejected> {
        self.build()
    }

    /// Secrets, or their keys, that are referred to and not there.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// The bundle in force.
    pub fn in_force(&self) -> Option<&Bundle> {
        self.bundle.as_ref()
    }

    /// Replaces the overrides for the environment of a stdio server.
    pub fn environment(&mut self, environment: Environment) {
        self.environment = environment;
    }

    fn build(&mut self) -> Result<Option<Arc<Snapshot>>, Rejected> {
        let (Some(bundle), Some(program)) = (&self.bundle, &self.program) else {
            return Ok(None);
        };
        let spec = &bundle.server.spec;
        let settings = Settings::of(spec)?;
        let mut lookup = Lookup::new(&*self.environment.secrets);
        let plan = Plan::resolve(&spec.upstream, &self.environment.env, &mut lookup)
            .map_err(Rejected::Setting)?;
        let authentication = spec.authentication.as_ref();
        let anonymous = authentication
            .is_some_and(|authentication| authentication.anonymous() == Switch::Allow);
        let keys = authentication
            .and_then(|authentication| authentication.api_keys.as_ref())
            .and_then(|keys| lookup.all(&keys.secret_ref.name, false));
        self.missing = lookup.into_missing();
        let Some(plan) = plan.filter(|_| self.missing.is_empty()) else {
            return Ok(None);
        };
        let grants = match &self.keys {
            Some((seen, open, grants)) if *seen == keys && *open == anonymous => Arc::clone(grants),
            _ => {
                let grants = Arc::new(Grants::new(
                    keys.as_ref().unwrap_or(&BTreeMap::new()),
                    anonymous,
                ));
                self.keys = Some((keys, anonymous, Arc::clone(&grants)));
                grants
            }
        };
        let upstream = match &self.upstream {
            Some((same, upstream)) if *same == plan => Arc::clone(upstream),
            _ => {
                let name = format!("{}/{}", bundle.server.namespace, bundle.server.name);
                let upstream =
                    Arc::new(connect(&name, &plan, &settings).map_err(Rejected::Setting)?);
                if self.upstream.take().is_some() {
                    // Another server: nothing that the old one listed is known of it.
                    self.listing = None;
                }
                self.upstream = Some((plan, Arc::clone(&upstream)));
                upstream
            }
        };
        let bound = Arc::new(Bound::new(
            program,
            self.listing.as_deref().unwrap_or_default(),
        ));
        Ok(Some(Arc::new(Snapshot {
            revision: bundle.revision.clone(),
            server: Arc::new(bundle.server.clone()),
            settings,
            bound,
            listed: self.listing.is_some(),
            grants,
            upstream,
        })))
    }
}

fn connect(name: &str, plan: &Plan, settings: &Settings) -> Result<Upstream, String> {
    match plan {
        Plan::Http { url, headers, ca } => HttpUpstream::new(url, headers, ca.as_deref())
            .map(|upstream| Upstream::Http(Box::new(upstream)))
            .map_err(|error| format!("spec.{error}")),
        Plan::Stdio {
            command,
            args,
            env,
            sessions,
        } => {
            let mut config = BridgeConfig::new(name, command.clone());
            config.args.clone_from(args);
            config.env.clone_from(env);
            config.sessions = match sessions {
                Sessions::Shared => bridge::Sessions::Shared,
                Sessions::PerSession => bridge::Sessions::PerSession,
            };
            // What the gateway lets pass grows a little when it is written anew.
            config.limits.request_bytes = settings.max_request_bytes.saturating_add(64 << 10);
            Bridge::start(config)
                .map(Upstream::Bridge)
                .map_err(|error| format!("spec.upstream.stdio.command: {error}"))
        }
    }
}
