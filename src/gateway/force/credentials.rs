//! The upstream as each caller reaches it: `upstream.http.credentials`,
//! `upstream.stdio.credentials`.
//!
//! In: a spec, Secrets, how the gateway itself reaches the upstream. Out: [`Upstreams`], which
//! gives the upstream of a caller with that caller's credential, or says that it has none. With
//! credentials, nothing else gives a caller an upstream: a connection, a process and a session are
//! one credential's. Must not do: fall back to another entry, or to what the gateway itself has.

use std::sync::Arc;

use super::destination::Destination;
use super::plan::{Plan, Stdio};
use super::secrets::Lookup;
use crate::api::server::{HttpUpstream, StdioUpstream, Upstream as UpstreamSpec};
use crate::gateway::bridge::{CredentialTable, Variables};
use crate::gateway::upstream::Upstream;
use crate::policy::canonical::sha256;
use crate::policy::credential::{CredentialVariables, Unresolved};
use crate::policy::decision::{CREDENTIALS_RULE, NO_POLICY, RuleId};
use crate::policy::matcher::{Glob, grant_glob};

/// The upstream of a server, by caller.
pub struct Upstreams {
    own: Arc<Upstream>,
    by_caller: Option<ByCaller>,
}

struct ByCaller {
    /// What refusals are counted under.
    by: Arc<RuleId>,
    /// Where entries are written.
    field: &'static str,
    entries: Vec<ReachEntry>,
}

struct ReachEntry {
    callers: Vec<Glob>,
    /// None while its Secret is missing or cannot be used: its callers are refused.
    reach: Option<Reach>,
    destination: Arc<Destination>,
}

struct Reach {
    upstream: Arc<Upstream>,
    /// The same text for the same credential, values included. It is bound into tokens of sessions,
    /// never shown.
    fingerprint: String,
}

/// A caller's way to the upstream.
#[derive(Clone)]
pub struct CallerUpstream {
    /// It sends the caller's credential, if there are credentials.
    pub upstream: Arc<Upstream>,
    /// What sessions of the caller are bound to, if not to its name alone.
    pub binding: Option<Arc<str>>,
}

/// A caller has no credential, so nothing of it may reach the upstream.
#[derive(Clone, Debug)]
pub struct NoCredential {
    /// What its calls are counted under.
    pub by: Arc<RuleId>,
    field: &'static str,
    /// An entry matches the caller, and its Secret is not there.
    matched: bool,
}

impl NoCredential {
    /// Why, and what to do, for the agent.
    pub fn told(&self, server: &str, grant: &str) -> String {
        let field = self.field;
        let nothing = "Nothing was sent to the server.";
        if self.matched {
            return format!(
                "The credential of {grant} for McpServer {server} is missing or cannot be used. {nothing} Ask the administrator of \
                 this McpServer to check the Secrets of {field}; until then every call is refused."
            );
        }
        format!(
            "McpServer {server} has no credential for {grant}. {nothing} Ask the administrator of this McpServer to name this caller \
             in {field}. Do not retry until then."
        )
    }
}

impl Upstreams {
    /// As the gateway itself reaches it, to list its tools.
    pub fn own(&self) -> &Arc<Upstream> {
        &self.own
    }

    /// As a caller reaches it, by the first entry that matches.
    ///
    /// # Errors
    /// [`NoCredential`].
    pub fn of(&self, grant: &str) -> Result<CallerUpstream, NoCredential> {
        let Some(by_caller) = &self.by_caller else {
            return Ok(CallerUpstream {
                upstream: Arc::clone(&self.own),
                binding: None,
            });
        };
        let entry = by_caller.entry(grant);
        match entry.and_then(|entry| entry.reach.as_ref()) {
            Some(reach) => Ok(CallerUpstream {
                upstream: Arc::clone(&reach.upstream),
                // No name of a grant has a line break.
                binding: Some(format!("{grant}\n{}", reach.fingerprint).into()),
            }),
            None => Err(NoCredential {
                by: Arc::clone(&by_caller.by),
                field: by_caller.field,
                matched: entry.is_some(),
            }),
        }
    }

    /// Where a caller's calls go, if its credential makes a difference.
    pub fn destination(&self, grant: &str) -> Option<&Arc<Destination>> {
        let entry = self.by_caller.as_ref()?.entry(grant)?;
        Some(&entry.destination)
    }
}

impl ByCaller {
    fn entry(&self, grant: &str) -> Option<&ReachEntry> {
        let matches = |entry: &&ReachEntry| entry.callers.iter().any(|glob| glob.matches(grant));
        self.entries.iter().find(matches)
    }
}

/// Makes [`Upstreams`], one after the other, and keeps the upstreams of credentials that have not
/// changed.
#[derive(Default)]
pub struct CredentialBuilder {
    made: Vec<(Plan, Arc<Upstream>)>,
}

/// What the entries are made from.
pub struct CredentialSource<'a> {
    pub spec: &'a UpstreamSpec,
    pub stdio: &'a Stdio,
    /// The server's name.
    pub name: &'a str,
    /// How the gateway itself reaches it.
    pub own: Arc<Upstream>,
    /// Where calls go but for the caller's credential.
    pub destination: &'a Destination,
}

/// A credential with its values.
enum Resolved {
    /// A way of its own.
    Plan(Plan, String),
    /// A process of the bridge in this process.
    Process(String, Variables),
}

impl CredentialBuilder {
    /// The upstream by caller. `lookup` remembers what is missing; callers whose credential is
    /// missing are refused, and the others are served.
    pub fn build(&mut self, source: CredentialSource<'_>, lookup: &mut Lookup<'_>) -> Upstreams {
        let (field, entries) = match (&source.spec.http, &source.spec.stdio) {
            (Some(http), _) => ("spec.upstream.http.credentials", resolve_http(http, lookup)),
            (None, Some(stdio)) => (
                "spec.upstream.stdio.credentials",
                resolve_stdio(stdio, source.stdio, lookup),
            ),
            (None, None) => ("", Vec::new()),
        };
        let own = Arc::clone(&source.own);
        if entries.is_empty() {
            self.made.clear();
            use_credentials(&own, None);
            return Upstreams {
                own,
                by_caller: None,
            };
        }
        let mut table = CredentialTable::new();
        let (made, among) = (std::mem::take(&mut self.made), entries.len());
        let entries = entries.into_iter().map(|(callers, resolved, shown)| {
            let globs = callers.iter().filter_map(|glob| grant_glob(glob).ok());
            let reach = match resolved {
                Ok(Resolved::Plan(plan, fingerprint)) => self
                    .connect(plan, among, &made, &source)
                    .map(|upstream| Reach { upstream, fingerprint }),
                Ok(Resolved::Process(id, variables)) => {
                    let fingerprint = fingerprint(variables.iter().map(|(name, value)| {
                        (name.as_encoded_bytes(), value.as_encoded_bytes())
                    }));
                    table.insert(id.clone(), Ok(variables));
                    let upstream = source.own.with_credential(&id).map(Arc::new);
                    upstream
                        .map(|upstream| Reach { upstream, fingerprint })
                        .ok_or_else(|| "the server does not run here".to_owned())
                }
                Err(why) => Err(why),
            };
            if let Err(why) = &reach {
                tracing::error!(
                    server = source.name,
                    "{field}: the credential of {} cannot be used: {why}; these callers are refused",
                    callers.join(", ")
                );
            }
            ReachEntry {
                callers: globs.collect(),
                reach: reach.ok(),
                destination: Arc::new(source.destination.with(&shown)),
            }
        });
        let entries = entries.collect();
        use_credentials(&own, Some(table));
        Upstreams {
            own,
            by_caller: Some(ByCaller {
                by: Arc::new(RuleId {
                    namespace: String::new(),
                    policy: NO_POLICY.to_owned(),
                    rule: CREDENTIALS_RULE.to_owned(),
                    qualified: false,
                    uid: Arc::from(""),
                }),
                field,
                entries,
            }),
        }
    }

    fn connect(
        &mut self,
        plan: Plan,
        among: usize,
        made: &[(Plan, Arc<Upstream>)],
        source: &CredentialSource<'_>,
    ) -> Result<Arc<Upstream>, String> {
        let same = |(known, _): &&(Plan, Arc<Upstream>)| *known == plan;
        let known = made
            .iter()
            .find(same)
            .map(|(_, upstream)| Arc::clone(upstream));
        let upstream = match (known, &plan, &*source.own) {
            (Some(upstream), _, _) => upstream,
            (None, Plan::Http { headers, .. }, Upstream::Http(own)) => {
                let upstream = own.with_headers(headers, among);
                let upstream = upstream.map_err(|error| error.to_string())?;
                Arc::new(Upstream::Http(Box::new(upstream)))
            }
            _ => return Err("the server does not run here".to_owned()),
        };
        self.made.push((plan, Arc::clone(&upstream)));
        Ok(upstream)
    }
}

/// The callers of an entry, what it stands for, and the same in words.
type ResolvedEntry<'a> = (&'a [String], Result<Resolved, String>, String);

/// Why an entry without its Secret cannot be used; the report names the key.
const MISSING: &str = "a Secret is missing";

fn resolve_http<'a>(http: &'a HttpUpstream, lookup: &mut Lookup<'_>) -> Vec<ResolvedEntry<'a>> {
    let entries = http.credentials.iter().map(|entry| {
        let plan = Plan::http_with(http, &entry.headers, lookup);
        let resolved = plan.ok_or_else(|| MISSING.to_owned()).map(|plan| {
            let headers = match &plan {
                Plan::Http { headers, .. } => &headers[..],
                Plan::Stdio { .. } => &[],
            };
            let parts = headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), &value[..]));
            let fingerprint = fingerprint(parts);
            Resolved::Plan(plan, fingerprint)
        });
        let shown = super::destination::headers(&entry.headers);
        (&entry.callers[..], resolved, shown)
    });
    entries.collect()
}

fn resolve_stdio<'a>(
    spec: &'a StdioUpstream,
    stdio: &Stdio,
    lookup: &mut Lookup<'_>,
) -> Vec<ResolvedEntry<'a>> {
    let entries = spec.credentials.iter().map(|entry| {
        let variables = CredentialVariables::of(&entry.env).map_err(|(_, why)| why);
        let shown = match &variables {
            Ok(variables) => super::destination::variables(variables),
            Err(_) => String::new(),
        };
        let resolved = variables.and_then(|variables| match stdio {
            Stdio::Bridge { url, bearer } => {
                // The pod resolves it, and refuses an id that it does not know.
                let id = variables.id();
                let plan = Plan::bridge(url, bearer, Some(&id), lookup)?;
                let plan = plan.ok_or_else(|| MISSING.to_owned())?;
                Ok(Resolved::Plan(plan, id))
            }
            Stdio::Child { .. } => {
                let values = variables.resolve(|name, key| lookup.key(name, key, false));
                let values = values.map_err(|why| match why {
                    Unresolved::Missing(_) => MISSING.to_owned(),
                    Unresolved::NotText(_) => why.to_string(),
                })?;
                Ok(Resolved::Process(variables.id(), values))
            }
            Stdio::Nowhere => Err("the server does not run here".to_owned()),
        });
        (&entry.callers[..], resolved, shown)
    });
    entries.collect()
}

/// The same text for the same names and values, which reveals none of them.
fn fingerprint<'a>(parts: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut whole = Vec::new();
    for part in parts.flat_map(|(name, value)| [name, value]) {
        whole.extend_from_slice(&(part.len() as u64).to_be_bytes());
        whole.extend_from_slice(part);
    }
    hex::encode(sha256(&whole))
}

/// Gives the server's processes in this process their credentials.
fn use_credentials(own: &Upstream, table: Option<CredentialTable>) {
    if let Upstream::Bridge(bridge, _) = own
        && let Err(error) = bridge.use_credentials(table)
    {
        tracing::error!("{error}");
    }
}
