//! Which variables of this environment a stdio server gets, and how a person is told.

use std::collections::BTreeMap;

use crate::api::server::McpServer;
use crate::gateway::upstream::stdio::INHERITED;

/// Variables that MLflow's clients, Python and TLS libraries read; people expect them to work.
const USUAL: [&str; 22] = [
    "ALL_PROXY",
    "AWS_PROFILE",
    "DATABRICKS_CONFIG_PROFILE",
    "DATABRICKS_HOST",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The variables of `--env`, and those that `--pass-env` takes from this environment.
///
/// # Errors
/// Names a variable that is not set here, or that no server may have.
pub fn given(
    env: &[(String, String)],
    pass: &[String],
    here: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, String> {
    let mut given = BTreeMap::new();
    for name in pass {
        if name.starts_with("PORTCULLIS_") {
            return Err(format!(
                "--pass-env {name}: variables of Portcullis hold keys that no server may read; write --env NAME=VALUE for the server's own"
            ));
        }
        let value = here(name).ok_or_else(|| {
            format!("--pass-env {name}: it is not set here; set it, or write --env {name}=VALUE")
        })?;
        given.insert(name.clone(), value);
    }
    given.extend(env.iter().cloned());
    Ok(given)
}

/// What the process of a stdio server gets of the environment; None for a server that is reached by
/// URL. Values are not shown.
pub fn note(
    server: &McpServer,
    given: &BTreeMap<String, String>,
    is_set: impl Fn(&str) -> bool,
) -> Option<String> {
    let stdio = server.spec.upstream.stdio.as_ref()?;
    let mut names: Vec<&str> = INHERITED.to_vec();
    names.extend(stdio.env.iter().map(|variable| variable.name.as_str()));
    names.extend(given.keys().map(String::as_str));
    let mut seen = Vec::new();
    names.retain(|name| {
        let new = !seen.contains(name);
        seen.push(*name);
        new
    });
    let mut text = format!("its process gets {}", names.join(", "));
    let secrets = stdio.env_from.iter().filter_map(|source| {
        let secret = source.secret_ref.as_ref()?;
        Some(secret.name.as_str())
    });
    for secret in secrets {
        text.push_str(&format!(", the keys of Secret {secret}"));
    }
    text.push_str(", and nothing else of this environment");
    // With the keys of a Secret, which names the server gets is not known here.
    let missing: Vec<&str> = match stdio.env_from.is_empty() {
        true => USUAL
            .into_iter()
            .filter(|name| is_set(name) && !names.contains(name))
            .collect(),
        false => Vec::new(),
    };
    if missing.is_empty() {
        text.push_str("; --pass-env NAME passes more");
    } else {
        let options: Vec<String> = missing
            .iter()
            .map(|name| format!("--pass-env {name}"))
            .collect();
        text.push_str(&format!(
            "; set here, but not passed: {} ({} passes them)",
            missing.join(", "),
            options.join(" ")
        ));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn server(upstream: serde_json::Value) -> McpServer {
        let spec = serde_json::from_value(json!({ "upstream": upstream })).unwrap();
        McpServer::new("mlflow", spec)
    }

    #[test]
    fn what_is_passed_is_taken_from_here_and_what_is_written_wins() {
        let here = |name: &str| (name == "A" || name == "B").then(|| "here".to_owned());
        let written = [("B".to_owned(), "written".to_owned())];
        let pass = ["A".to_owned(), "B".to_owned()];
        let all = given(&written, &pass, here).unwrap();
        assert_eq!(all["A"], "here");
        assert_eq!(all["B"], "written");
        let refused = |name: &str| given(&[], &[name.to_owned()], here).unwrap_err();
        assert!(refused("C").contains("--env C=VALUE"));
        assert!(refused("PORTCULLIS_SECRET_A").contains("no server may read"));
    }

    #[test]
    fn a_person_is_told_which_variables_a_server_gets_and_which_usual_ones_it_lacks() {
        let stdio = |more: serde_json::Value| {
            let mut stdio = json!({ "image": "i", "command": ["c"],
                "env": [{ "name": "MLFLOW_TRACKING_URI", "value": "http://secret" }] });
            stdio
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            server(json!({ "stdio": stdio }))
        };
        let given = BTreeMap::from([("A".to_owned(), "hunter2".to_owned())]);
        let set = |name: &str| matches!(name, "MLFLOW_TRACKING_URI" | "SSL_CERT_FILE");
        assert_eq!(
            note(&stdio(json!({})), &given, set).unwrap(),
            "its process gets PATH, HOME, LANG, MLFLOW_TRACKING_URI, A, and nothing else of this environment; set here, but not passed: SSL_CERT_FILE (--pass-env SSL_CERT_FILE passes them)"
        );
        let from = stdio(json!({ "envFrom": [{ "secretRef": { "name": "mlflow" } }] }));
        assert_eq!(
            note(&from, &given, set).unwrap(),
            "its process gets PATH, HOME, LANG, MLFLOW_TRACKING_URI, A, the keys of Secret mlflow, and nothing else of this environment; --pass-env NAME passes more"
        );
        assert_eq!(
            note(
                &server(json!({ "http": { "url": "http://a/mcp" } })),
                &given,
                set
            ),
            None
        );
    }
}
