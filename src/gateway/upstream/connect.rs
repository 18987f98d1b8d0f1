//! From a plan to an upstream: the only place of the gateway that starts child processes.
//!
//! In: a resolved plan. Out: an HTTP client, or the bridge of a child that was started. Must not
//! do: read Secrets.

use http::HeaderValue;

use super::http_client::Endpoint;
use super::proxy::Proxy;
use super::{HttpUpstream, Upstream};
use crate::api::server::Sessions;
use crate::gateway::bridge::{self, Bridge, BridgeConfig, OWN_CREDENTIAL};
use crate::gateway::force::plan::Plan;
use crate::gateway::force::settings::Settings;

/// Names what the gateway itself has.
const OWN: HeaderValue = HeaderValue::from_static(OWN_CREDENTIAL);

/// Starts or prepares the upstream of the server with this name. Requests to another program carry
/// the name of this gateway, `hop`.
///
/// # Errors
/// Names the field that cannot be used.
pub fn connect(
    plan: &Plan,
    name: &str,
    hop: &HeaderValue,
    settings: &Settings,
) -> Result<Upstream, String> {
    match plan {
        Plan::Http {
            url,
            headers,
            ca,
            host,
            proxy,
            bridge,
        } => {
            let proxy = match proxy {
                _ if *bridge => None,
                Some((url, credentials)) => Proxy::new(url, credentials.as_deref())
                    .map(Some)
                    .map_err(|error| format!("spec.upstream.http.proxy: {error}"))?,
                None => Proxy::of_environment(url).map_err(|error| {
                    format!("the proxy variables of the gateway's environment: {error}")
                })?,
            };
            let endpoint = Endpoint {
                url,
                headers,
                ca: ca.as_deref(),
                host: host.as_deref(),
                proxy: proxy.as_ref(),
            };
            let upstream = HttpUpstream::new(&endpoint).map_err(|error| format!("spec.{error}"))?;
            let upstream = match *bridge {
                true => upstream.as_bridge(),
                false => upstream.asked_by(hop.clone()),
            };
            Ok(Upstream::Http(Box::new(upstream)))
        }
        Plan::Stdio {
            command,
            args,
            env,
            sessions,
            session_idle,
            user,
        } => {
            let mut config = BridgeConfig::new(name, command.clone());
            config.args.clone_from(args);
            config.env.clone_from(env);
            config.user.clone_from(user);
            config.sessions = match sessions {
                Sessions::Shared => bridge::Sessions::Shared,
                Sessions::PerSession => bridge::Sessions::PerSession,
            };
            config.limits.session_idle = *session_idle;
            config.limits.max_sessions = config.sessions.most();
            // What the gateway lets pass grows a little when it is written again.
            config.limits.request_bytes = settings.max_request_bytes.saturating_add(64 << 10);
            Bridge::start(config)
                .map(|bridge| Upstream::Bridge(bridge, Some(OWN)))
                .map_err(|error| format!("spec.upstream.stdio.command: {error}"))
        }
    }
}
