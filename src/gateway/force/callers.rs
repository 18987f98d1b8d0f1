//! From `spec.authentication` to the credentials that a server accepts.
//!
//! In: the spec, Secrets, the issuers of the bundle. Out: [`Grants`], the same as before while
//! nothing has changed, so that tokens are not verified again. Must not do: decide about a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::secrets::Lookup;
use crate::api::Switch;
use crate::api::server::{Authentication, JwtProvider};
use crate::gateway::grants::{Grants, SHORTEST_KEY};
use crate::gateway::tokens::{Issuer, IssuerKeys, IssuerKind, KeySet, RemoteKeys};
use crate::policy::bundle::{Bundle, BundleIssuer};

/// The credentials of a server, with what they were made from.
#[derive(Default)]
pub struct Callers {
    made: Option<(MadeFrom, Arc<Grants>)>,
    /// Keys behind URLs, by URL and CA: they are fetched on while a spec names them.
    remotes: BTreeMap<(String, Option<Vec<u8>>), Arc<RemoteKeys>>,
}

#[derive(PartialEq)]
struct MadeFrom {
    authentication: Option<Authentication>,
    issuers: Vec<BundleIssuer>,
    keys: Option<BTreeMap<String, Vec<u8>>>,
    /// Key sets, and CAs of those behind URLs, by the place of the provider.
    sets: Vec<OfSecrets>,
}

/// What Secrets hold for one provider.
#[derive(PartialEq)]
struct OfSecrets {
    set: Option<Vec<u8>>,
    ca: Option<Vec<u8>>,
}

impl Callers {
    /// The credentials that the bundle's server accepts now.
    pub fn grants(&mut self, bundle: &Bundle, lookup: &mut Lookup<'_>) -> Arc<Grants> {
        let authentication = bundle.server.spec.authentication.as_ref();
        let keys = authentication
            .and_then(|authentication| authentication.api_keys.as_ref())
            .and_then(|keys| lookup.all(&keys.secret_ref.name, false));
        let providers = authentication.map_or(&[][..], |authentication| &authentication.jwt);
        let sets = providers.iter().map(|provider| {
            let set = provider.jwks.secret_key_ref.as_ref();
            let ca = provider.jwks.ca_secret_ref.as_ref();
            OfSecrets {
                set: set.and_then(|set| lookup.reference(set)),
                ca: ca.and_then(|ca| lookup.reference(ca)),
            }
        });
        let from = MadeFrom {
            sets: sets.collect(),
            authentication: authentication.cloned(),
            issuers: bundle.issuers.clone(),
            keys,
        };
        if let Some((same, grants)) = &self.made
            && *same == from
        {
            return Arc::clone(grants);
        }
        let mut faults = Vec::new();
        let issuers = self.issuers(bundle, &from, &mut faults);
        for fault in &faults {
            tracing::error!("{fault}");
        }
        let held = from.keys.as_ref().unwrap_or(const { &BTreeMap::new() });
        let anonymous = authentication.is_some_and(|open| open.anonymous() == Switch::Allow);
        let grants = Arc::new(Grants::new(held, anonymous).with_issuers(issuers, faults));
        for name in grants.refused() {
            tracing::error!(
                "the API key {name} is refused, as it has fewer than {SHORTEST_KEY} characters: put a longer one into the Secret, for example that of `openssl rand -hex 32`"
            );
        }
        if !grants.equal().is_empty() {
            tracing::error!(
                "the API keys {} are equal and are refused, as it would be unclear whose call it is: give each grant a key of its own in the Secret",
                grants.equal().join(", ")
            );
        }
        self.made = Some((from, Arc::clone(&grants)));
        grants
    }

    fn issuers(
        &mut self,
        bundle: &Bundle,
        from: &MadeFrom,
        faults: &mut Vec<String>,
    ) -> Vec<Arc<Issuer>> {
        let Some(authentication) = &from.authentication else {
            return Vec::new();
        };
        let mut issuers = Vec::new();
        if let Some(accounts) = &authentication.service_accounts {
            let server = &bundle.server;
            let audiences = match &accounts.audiences[..] {
                [] => vec![format!("portcullis:{}/{}", server.namespace, server.name)],
                written => written.to_vec(),
            };
            if bundle.issuers.is_empty() {
                faults.push("spec.authentication.serviceAccounts: service account tokens are refused, as the keys of the cluster's issuer are not known; the operator delivers them, `portcullis serve` has none".to_owned());
            }
            for BundleIssuer { issuer, jwks } in &bundle.issuers {
                let keys = KeySet::parse(jwks.to_string().as_bytes());
                issuers.push(Arc::new(Issuer {
                    kind: IssuerKind::ServiceAccount,
                    issuer: issuer.clone(),
                    audiences: audiences.clone(),
                    scopes: Vec::new(),
                    keys: IssuerKeys::Fixed(usable(keys, issuer, faults)),
                }));
            }
        }
        let mut remotes = BTreeMap::new();
        for (provider, OfSecrets { set, ca }) in authentication.jwt.iter().zip(&from.sets) {
            let keys = match (&provider.jwks.url, set) {
                (Some(url), _) => {
                    let key = (url.clone(), ca.clone());
                    let known = self.remotes.get(&key).cloned();
                    let remote = known.map_or_else(|| remote(url, ca.as_deref()), Ok);
                    match remote {
                        Ok(remote) => {
                            remotes.insert(key, Arc::clone(&remote));
                            IssuerKeys::Remote(remote)
                        }
                        Err(why) => {
                            let keys = usable(Err(why), &provider.issuer, faults);
                            IssuerKeys::Fixed(keys)
                        }
                    }
                }
                // A Secret that is missing keeps the whole bundle out of force.
                (None, None) => IssuerKeys::Fixed(None),
                (None, Some(text)) => {
                    let keys = usable(KeySet::parse(text), &provider.issuer, faults);
                    IssuerKeys::Fixed(keys)
                }
            };
            issuers.push(Arc::new(of_provider(provider, keys)));
        }
        self.remotes = remotes;
        issuers
    }
}

fn of_provider(provider: &JwtProvider, keys: IssuerKeys) -> Issuer {
    Issuer {
        kind: IssuerKind::Provider {
            name: provider.name.clone(),
            claim: provider.grant_claim().to_owned(),
        },
        issuer: provider.issuer.clone(),
        audiences: provider.audiences.clone(),
        scopes: provider.required_scopes.clone(),
        keys,
    }
}

fn remote(url: &str, ca: Option<&[u8]>) -> Result<Arc<RemoteKeys>, String> {
    let remote = RemoteKeys::new(url, ca)?;
    remote.keep();
    Ok(remote)
}

/// Without usable keys no token of the issuer is accepted, and everything else keeps working.
fn usable(
    keys: Result<KeySet, String>,
    issuer: &str,
    faults: &mut Vec<String>,
) -> Option<Arc<KeySet>> {
    match keys {
        Ok(keys) => Some(Arc::new(keys)),
        Err(why) => {
            faults.push(format!(
                "tokens of the issuer {issuer} are refused, as its keys cannot be used: {why}"
            ));
            None
        }
    }
}
