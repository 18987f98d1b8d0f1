//! What an announcement says.
//!
//! In: a request for approval. Out: the body of a POST. Arguments and the observed state are in it
//! only where the spec says so, and then as redacted as people see them. Must not do: offer a way
//! to decide; a chat never decides.

use serde_json::{Map, Value, json};

use crate::api::approval::McpApproval;

/// An object with the request.
pub fn generic(object: &McpApproval, with_arguments: bool) -> String {
    let spec = &object.spec;
    let mut approval = Map::new();
    let mut put = |key: &str, value: Value| approval.insert(key.to_owned(), value);
    put("namespace", json!(object.metadata.namespace));
    put("name", json!(object.metadata.name));
    put("server", json!(spec.server_ref.name));
    put("grant", json!(spec.grant));
    put("tool", json!(spec.tool));
    put("policy", json!(spec.policy));
    put("rule", json!(spec.rule));
    put("approvers", json!(spec.approvers()));
    put("requestedAt", json!(spec.requested_at.0.to_string()));
    put("expiresAt", json!(spec.expires_at.0.to_string()));
    put("digest", json!(spec.arguments_digest));
    put("decisionId", json!(spec.decision_id));
    if with_arguments {
        put("arguments", json!(spec.arguments_preview));
        if let Some(observed) = &spec.observed {
            put("observed", json!(observed.preview));
        }
    }
    let whole = json!({"version": 1, "type": "approval.requested", "approval": approval, "show": show(object)});
    whole.to_string()
}

/// A message for an incoming webhook of Slack.
pub fn slack(object: &McpApproval, with_arguments: bool) -> String {
    let spec = &object.spec;
    let people = match spec.approvers() {
        1 => "a person".to_owned(),
        several => format!("{several} people"),
    };
    let mut text = format!(
        "{} asks {people} to approve a call of {} {}.\n",
        spec.grant,
        spec.tool,
        spec.circumstances(),
    );
    if with_arguments {
        text.push_str(&format!("Arguments: {}\n", spec.arguments_preview));
        if let Some(observed) = &spec.observed {
            text.push_str(&format!("There now: {}\n", observed.preview));
        }
    }
    text.push_str(&format!("To decide: {}", show(object)));
    // Callers and agents choose parts of it: no mention, no link, no formatting.
    json!({"text": escaped(&text), "mrkdwn": false, "parse": "none", "unfurl_links": false, "unfurl_media": false})
        .to_string()
}

/// The control characters of Slack's texts.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The command that shows the request and how to decide it.
fn show(object: &McpApproval) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    // Only an API server gives out UIDs.
    match (&object.metadata.uid, &object.metadata.namespace) {
        (Some(_), Some(namespace)) => {
            format!("kubectl portcullis approvals show {name} -n {namespace}")
        }
        _ => format!("portcullis approvals show {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: Option<&str>) -> McpApproval {
        serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApproval",
            "metadata": {"name": "m-ab-0", "namespace": "ml", "uid": uid},
            "spec": {
                "serverRef": {"name": "m"}, "grant": "key:<!channel>", "tool": "set_alias", "argumentsDigest": "sha256:d",
                "argumentsPreview": "{\"a\":\"<http://x|y> & z\"}", "policy": "p", "rule": "r", "approvers": 2,
                "requestedAt": "2026-11-21T12:00:00Z", "expiresAt": "2026-11-21T12:30:00Z", "decisionId": "run-1",
                "observed": {"tool": "get", "preview": "7", "digest": "sha256:o"},
            },
        }))
        .unwrap()
    }

    #[test]
    fn an_announcement_has_arguments_only_where_they_are_wanted() {
        let body: Value = serde_json::from_str(&generic(&object(Some("u")), false)).unwrap();
        assert_eq!(
            body,
            json!({
                "version": 1, "type": "approval.requested",
                "show": "kubectl portcullis approvals show m-ab-0 -n ml",
                "approval": {
                    "namespace": "ml", "name": "m-ab-0", "server": "m", "grant": "key:<!channel>", "tool": "set_alias",
                    "policy": "p", "rule": "r", "approvers": 2, "digest": "sha256:d", "decisionId": "run-1",
                    "requestedAt": "2026-11-21T12:00:00Z", "expiresAt": "2026-11-21T12:30:00Z",
                },
            })
        );
        let body: Value = serde_json::from_str(&generic(&object(None), true)).unwrap();
        assert_eq!(
            (
                &body["approval"]["arguments"],
                &body["approval"]["observed"],
                &body["show"]
            ),
            (
                &json!("{\"a\":\"<http://x|y> & z\"}"),
                &json!("7"),
                &json!("portcullis approvals show m-ab-0")
            )
        );
    }

    #[test]
    fn nothing_that_an_agent_writes_is_a_mention_or_a_link_in_slack() {
        let body: Value = serde_json::from_str(&slack(&object(None), true)).unwrap();
        assert_eq!(
            body["text"],
            "key:&lt;!channel&gt; asks 2 people to approve a call of set_alias at m (policy p, rule r), until 2026-11-21T12:30:00Z.\n\
             Arguments: {\"a\":\"&lt;http://x|y&gt; &amp; z\"}\nThere now: 7\nTo decide: portcullis approvals show m-ab-0"
        );
        assert_eq!(
            (&body["mrkdwn"], &body["parse"]),
            (&json!(false), &json!("none"))
        );
        let body = slack(&object(None), false);
        assert!(
            !body.contains("http") && !body.contains("There now"),
            "{body}"
        );
    }
}
