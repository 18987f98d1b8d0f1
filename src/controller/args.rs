//! The operator's command line. Each flag can be given as an environment variable too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer};

use crate::api::DurationString;
use crate::api::contract::ADMIN_PORT;
use crate::telemetry::logging;

/// Reconcile McpServers, McpPolicies and McpApprovals on the cluster of KUBECONFIG, or the one this
/// pod is in
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The operator's own namespace; policies in it are guardrails over all servers
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: String,
    /// This replica's name, by which it holds the Lease
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: String,
    /// Image of the gateway
    #[arg(long, env = "PORTCULLIS_GATEWAY_IMAGE", value_name = "IMAGE")]
    pub gateway_image: String,
    /// When nodes pull that image: Always, IfNotPresent or Never
    #[arg(long, env = "PORTCULLIS_GATEWAY_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub gateway_image_pull_policy: String,
    /// Look at this namespace only; may be given several times
    #[arg(
        long,
        env = "PORTCULLIS_WATCH_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub watch_namespace: Vec<String>,
    /// File with the operator's key, from which its other keys and its bearer tokens are derived
    #[arg(long, env = "PORTCULLIS_KEY_FILE", value_name = "FILE")]
    pub key_file: PathBuf,
    /// Make this Secret with a key in it if the file is not there; the operator never reads Secrets
    #[arg(long, env = "PORTCULLIS_KEY_SECRET", value_name = "NAME")]
    pub key_secret: Option<String>,
    /// The Lease that the leader holds
    #[arg(
        long,
        env = "PORTCULLIS_LEASE_NAME",
        default_value = "portcullis-operator",
        value_name = "NAME"
    )]
    pub lease_name: String,
    /// How long a leader that has died keeps the Lease
    #[arg(long, env = "PORTCULLIS_LEASE_DURATION", default_value = "15s", value_parser = seconds, value_name = "DURATION")]
    pub lease_duration: Duration,
    /// How long one watch lasts before it is renewed, from 5s to 10m; one that hangs is noticed
    /// a few seconds later
    #[arg(long, env = "PORTCULLIS_WATCH_DURATION", default_value = "60s", value_parser = watch, value_name = "DURATION")]
    pub watch_duration: Duration,
    /// Serve /metrics, /livez and /readyz here
    #[arg(
        long,
        env = "PORTCULLIS_ADMIN_LISTEN",
        default_value = "[::]:8081",
        value_name = "ADDRESS:PORT"
    )]
    pub admin_listen: SocketAddr,
    /// Remove approvals this long after they are finished
    #[arg(long, env = "PORTCULLIS_APPROVAL_RETENTION", default_value = "168h", value_parser = seconds, value_name = "DURATION")]
    pub approval_retention: Duration,
    /// JSON list of NetworkPolicyPeers that may reach gateways' admin port: this operator's pods,
    /// and who scrapes metrics
    #[arg(long, env = "PORTCULLIS_ADMIN_FROM", default_value = "[]", value_parser = peers, value_name = "JSON")]
    pub admin_from: Peers,
    /// JSON list of NetworkPolicyEgressRules that say where gateways may connect to; null lets them
    /// connect anywhere
    #[arg(long, env = "PORTCULLIS_GATEWAY_EGRESS", default_value = "null", value_parser = egress, value_name = "JSON")]
    pub gateway_egress: Egress,
    /// Port of gateways' reports
    #[arg(long, env = "PORTCULLIS_REPORT_PORT", default_value_t = ADMIN_PORT, value_name = "PORT")]
    pub report_port: u16,
    /// How the log on standard error is written
    #[arg(long, env = "PORTCULLIS_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: logging::Format,
}

/// Who may reach the admin port; a struct, as clap takes lists for flags that are repeated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers(pub Vec<NetworkPolicyPeer>);

/// Where gateways may connect to; None is anywhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Egress(pub Option<Vec<NetworkPolicyEgressRule>>);

/// A key that is not understood would leave a rule that lets everything through.
fn egress(text: &str) -> Result<Egress, String> {
    let wrong = |error| format!("not a JSON list of NetworkPolicyEgressRules, nor null: {error}");
    let written: Option<Vec<serde_json::Value>> =
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let rules = written.map(|written| {
        let mut rules = Vec::with_capacity(written.len());
        for rule in written {
            let read: NetworkPolicyEgressRule =
                serde_json::from_value(rule.clone()).map_err(|error| wrong(error.to_string()))?;
            if serde_json::to_value(&read).ok().as_ref() != Some(&rule) {
                return Err(wrong(format!("{rule} has a field that no such rule has")));
            }
            rules.push(read);
        }
        Ok(rules)
    });
    Ok(Egress(rules.transpose()?))
}

fn peers(text: &str) -> Result<Peers, String> {
    serde_json::from_str(text)
        .map(Peers)
        .map_err(|error| format!("not a JSON list of NetworkPolicyPeers: {error}"))
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    DurationString::from(text)
        .parse()
        .map_err(|error| error.to_string())
}

/// Shorter, and the operator is busy beginning watches; longer, and one that hangs keeps an old
/// policy in force for long.
fn watch(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if !(5..=600).contains(&duration.as_secs()) {
        return Err("a watch lasts from 5s to 10m".to_owned());
    }
    Ok(duration)
}

/// What tests give besides `more`: an operator in the namespace `ops`.
#[cfg(test)]
pub fn given(more: &[&str]) -> Result<Args, clap::Error> {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }
    let base = [
        "operator",
        "--namespace=ops",
        "--pod-name=a",
        "--gateway-image=i",
        "--key-file=/k",
    ];
    let cli = <Cli as clap::Parser>::try_parse_from(base.iter().chain(more));
    cli.map(|cli| cli.args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_bad_ones_are_told() {
        let args = given(&[
            "--admin-from",
            r#"[{"podSelector":{}}]"#,
            "--lease-duration",
            "5s",
        ])
        .unwrap();
        assert_eq!(args.admin_from.0.len(), 1);
        assert_eq!(args.lease_duration, Duration::from_secs(5));
        assert_eq!(args.approval_retention, Duration::from_secs(168 * 3600));
        assert!(
            given(&["--admin-from", "all"])
                .unwrap_err()
                .to_string()
                .contains("NetworkPolicyPeers")
        );
        assert_eq!(args.gateway_egress, Egress(None));
        let egress =
            |text: &str| given(&["--gateway-egress", text]).map(|args| args.gateway_egress.0);
        assert_eq!(egress("null").unwrap(), None);
        let dns = r#"[{"to":[{"namespaceSelector":{}}],"ports":[{"port":53,"protocol":"UDP"}]}]"#;
        assert_eq!(egress(dns).unwrap().unwrap().len(), 1);
        assert_eq!(egress("[]").unwrap(), Some(Vec::new()));
        // Else these would be rules without peers, which let everything through.
        for wrong in [
            r#"[{"tos":[]}]"#,
            r#"[{"to":[{"podselector":{}}]}]"#,
            "open",
            "{}",
        ] {
            let said = egress(wrong).unwrap_err().to_string();
            assert!(said.contains("NetworkPolicyEgressRules"), "{wrong}: {said}");
        }
        assert!(given(&["--lease-duration", "soon"]).is_err());
        assert_eq!(args.watch_duration, Duration::from_secs(60));
        for (duration, good) in [("5s", true), ("10m", true), ("4s", false), ("11m", false)] {
            let read = given(&["--watch-duration", duration]);
            assert_eq!(read.is_ok(), good, "{duration}");
        }
    }
}
