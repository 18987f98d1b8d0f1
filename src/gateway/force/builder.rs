//! From a bundle, the latest listing and Secrets to a snapshot.
//!
//! In: bundles, listings, an environment. Out: a [`Snapshot`] for each change, which shares with
//! the one before whatever has not changed. A bundle that cannot be compiled, or that is older than
//! the one in force, changes nothing. Must not do: publish a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;

use super::callers::Callers;
use super::counters::SharedPlace;
use super::credentials::{CredentialBuilder, CredentialSource};
use super::destination::Destination;
use super::lists::Lists;
use super::plan::{Plan, Stdio};
use super::rejected::Rejected;
use super::replays::Replays;
use super::secrets::{Lookup, Secrets};
use super::settings::Settings;
use super::snapshot::Snapshot;
use super::tls::{self, Certificate, Transport};
use super::withheld::WithheldTools;
use crate::gateway::notify::webhook::WebhookBuilder;
use crate::gateway::upstream::Upstream;
use crate::gateway::upstream::connect::connect;
use crate::gateway::upstream::stdio::RunAs;
use crate::policy::bundle::Bundle;
use crate::policy::{Bound, Definition, Program};
use crate::protocol::seal::Sealer;

/// What a gateway is built from, apart from bundles.
pub struct Environment {
    /// Where Secrets come from.
    pub secrets: Box<dyn Secrets>,
    /// Where stdio servers run.
    pub stdio: Stdio,
    /// Values of `Host` that are accepted besides loopback and those of the spec.
    pub hosts: Vec<String>,
}

impl Environment {
    /// Outside a cluster: stdio servers are child processes, with these variables over what their
    /// spec says.
    pub fn local(secrets: Box<dyn Secrets>, env: BTreeMap<String, String>) -> Self {
        Environment {
            secrets,
            stdio: Stdio::Child { env, user: None },
            hosts: Vec::new(),
        }
    }

    /// [`Self::local`], with stdio servers run as another user.
    pub fn local_as(
        secrets: Box<dyn Secrets>,
        env: BTreeMap<String, String>,
        user: Option<RunAs>,
    ) -> Self {
        Environment {
            stdio: Stdio::Child { env, user },
            ..Self::local(secrets, BTreeMap::new())
        }
    }
}

/// The source of the keys that seal the tokens of clients.
#[derive(Clone, Debug)]
pub enum Sealing {
    /// Keys of this process: what it sealed cannot be opened after it has ended.
    Own(Arc<Sealer>),
    /// A key of a Secret that all replicas share, in the form of [`Sealer::from_key_file`].
    Secret {
        /// The Secret.
        name: String,
        /// Its key.
        key: String,
    },
}

/// Builds snapshots, one after the other.
pub struct Builder {
    environment: Environment,
    sealing: Sealing,
    /// The name that requests of this gateway carry.
    hop: HeaderValue,
    bundle: Option<Bundle>,
    program: Option<Arc<Program>>,
    listing: Option<Vec<Definition>>,
    upstream: Option<(Plan, Arc<Upstream>)>,
    credentials: CredentialBuilder,
    destination: Option<Arc<Destination>>,
    missing: Vec<String>,
    callers: Callers,
    counters: SharedPlace,
    webhooks: WebhookBuilder,
    sealer: Option<(Vec<u8>, Arc<Sealer>)>,
    certificate: Option<Certificate>,
    transport: Transport,
    withheld: WithheldTools,
}

impl Builder {
    /// Nothing is in force yet.
    pub fn new(environment: Environment, sealing: Sealing, hop: HeaderValue) -> Self {
        Builder {
            environment,
            sealing,
            hop,
            bundle: None,
            program: None,
            listing: None,
            upstream: None,
            credentials: CredentialBuilder::default(),
            destination: None,
            missing: Vec::new(),
            callers: Callers::default(),
            counters: SharedPlace::default(),
            webhooks: WebhookBuilder::default(),
            sealer: None,
            certificate: None,
            transport: Transport::Plain,
            withheld: WithheldTools::default(),
        }
    }

    /// Puts a bundle into force.
    ///
    /// # Errors
    /// [`Rejected`]; the previous bundle stays. `Ok(None)` when a Secret is missing: see
    /// [`Self::missing`].
    pub fn bundle(&mut self, bundle: Bundle) -> Result<Option<Arc<Snapshot>>, Rejected> {
        let secure = tls::wanted(&bundle.server.spec);
        let built = self.take(bundle);
        if built.is_err() && self.bundle.is_none() && secure {
            // A client that was promised TLS never gets plain text, not even an error.
            self.transport = Transport::Closed;
        }
        built
    }

    fn take(&mut self, bundle: Bundle) -> Result<Option<Arc<Snapshot>>, Rejected> {
        if let Some(in_force) = &self.bundle
            && bundle.sequence < in_force.sequence
        {
            return Err(Rejected::Older {
                offered: bundle.sequence,
                in_force: in_force.sequence,
            });
        }
        let program =
            Arc::new(crate::policy::compile::compile(&bundle).map_err(Rejected::Diagnostics)?);
        Settings::of(&bundle.server.spec)?;
        // Checked before anything is replaced, so that a bundle that fails halfway changes nothing.
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

    /// The snapshot with freshly resolved callers, or None if they did not change.
    ///
    /// For when the current Secrets cannot be used as a whole: a key that was revoked must not live
    /// on because of another Secret's mistake.
    pub fn with_current_callers(&mut self, snapshot: &Snapshot) -> Option<Arc<Snapshot>> {
        let bundle = self.bundle.as_ref()?;
        let mut lookup = Lookup::new(&*self.environment.secrets);
        let grants = self.callers.grants(bundle, &mut lookup);
        (!Arc::ptr_eq(&grants, &snapshot.grants)).then(|| {
            Arc::new(Snapshot {
                grants,
                ..snapshot.clone()
            })
        })
    }

    /// Secrets, or their keys, that are referred to and not there.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// The bundle in force.
    pub fn in_force(&self) -> Option<&Bundle> {
        self.bundle.as_ref()
    }

    /// How the listener speaks to agents.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Replaces what bundles are resolved against.
    pub fn environment(&mut self, environment: Environment) {
        self.environment = environment;
    }

    fn build(&mut self) -> Result<Option<Arc<Snapshot>>, Rejected> {
        let (Some(bundle), Some(program)) = (&self.bundle, &self.program) else {
            return Ok(None);
        };
        let spec = &bundle.server.spec;
        let mut settings = Settings::of(spec)?;
        settings
            .allowed_hosts
            .extend(self.environment.hosts.iter().cloned());
        let mut lookup = Lookup::new(&*self.environment.secrets);
        let plan = Plan::resolve(&spec.upstream, &self.environment.stdio, &mut lookup)
            .map_err(Rejected::Setting)?;
        let sealer = sealer(&self.sealing, &mut self.sealer, &mut lookup)?;
        let transport = tls::transport(spec, &mut self.certificate, &mut lookup)?;
        let grants = self.callers.grants(bundle, &mut lookup);
        let counters = self.counters.of(bundle, &mut lookup);
        self.missing = lookup.into_missing();
        let (Some(plan), Some(sealer), []) = (plan, sealer, &self.missing[..]) else {
            self.transport = transport;
            return Ok(None);
        };
        let name = format!("{}/{}", bundle.server.namespace, bundle.server.name);
        let upstream = match &self.upstream {
            Some((same, upstream)) if *same == plan => Arc::clone(upstream),
            _ => {
                let upstream = Arc::new(
                    connect(&plan, &name, &self.hop, &settings).map_err(Rejected::Setting)?,
                );
                let before = self.upstream.take();
                if before.is_some_and(|(before, _)| !before.is_same_bridge(&plan)) {
                    // Another server: nothing that the old one listed is known of it.
                    self.listing = None;
                }
                self.upstream = Some((plan, Arc::clone(&upstream)));
                upstream
            }
        };
        let destination = Destination::of(&spec.upstream, &self.environment.stdio);
        let destination = match &self.destination {
            Some(same) if **same == destination => Arc::clone(same),
            _ => Arc::new(destination),
        };
        self.destination = Some(Arc::clone(&destination));
        self.transport = transport;
        let source = CredentialSource {
            spec: &spec.upstream,
            stdio: &self.environment.stdio,
            name: &name,
            own: upstream,
            destination: &destination,
        };
        // A credential that is missing is reported, and refuses its own callers only.
        let mut lookup = Lookup::new(&*self.environment.secrets);
        let upstreams = Arc::new(self.credentials.build(source, &mut lookup));
        self.missing = lookup.into_missing();
        let webhooks = self.webhooks.of(spec, &*self.environment.secrets);
        let bound = Arc::new(Bound::new(
            program,
            self.listing.as_deref().unwrap_or_default(),
        ));
        self.withheld.log(&name, &bound);
        let by_session = mentions(bundle, "session");
        Ok(Some(Arc::new(Snapshot {
            revision: bundle.revision.clone(),
            rules_revision: bundle.rules_revision(),
            server: Arc::new(bundle.server.clone()),
            settings,
            bound,
            listed: self.listing.is_some(),
            grants,
            counters,
            webhooks,
            upstreams,
            destination,
            sealer,
            lists: Arc::new(Lists::new(by_session)),
            replays: Arc::new(Replays::new(!by_session && !mentions(bundle, "now"))),
            secure: tls::wanted(spec),
        })))
    }
}

/// Whether some condition may read this variable: what is visible to a caller then depends on it.
fn mentions(bundle: &Bundle, variable: &str) -> bool {
    let mut rules = bundle.policies.iter().flat_map(|policy| &policy.spec.rules);
    rules.any(|rule| {
        rule.when
            .as_ref()
            .is_some_and(|when| when.contains(variable))
    })
}

/// The current sealer; None when its keys are missing. `made` is the previous one, with the text it
/// was made from.
fn sealer(
    sealing: &Sealing,
    made: &mut Option<(Vec<u8>, Arc<Sealer>)>,
    lookup: &mut Lookup<'_>,
) -> Result<Option<Arc<Sealer>>, Rejected> {
    let (name, key) = match sealing {
        Sealing::Own(sealer) => return Ok(Some(Arc::clone(sealer))),
        Sealing::Secret { name, key } => (name, key),
    };
    let Some(text) = lookup.key(name, key, false) else {
        return Ok(None);
    };
    match made {
        Some((same, sealer)) if *same == text => Ok(Some(Arc::clone(sealer))),
        _ => {
            let unusable = |why: &dyn std::fmt::Display| {
                Rejected::Setting(format!(
                    "the sealing keys in {name}/{key} cannot be used: {why}"
                ))
            };
            let lines = std::str::from_utf8(&text).map_err(|_| unusable(&"they are not text"))?;
            let sealer = Arc::new(Sealer::from_key_file(lines).map_err(|error| unusable(&error))?);
            *made = Some((text, Arc::clone(&sealer)));
            Ok(Some(sealer))
        }
    }
}
