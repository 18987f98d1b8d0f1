//! Policies as people write them: YAML to objects to a bundle that keeps the engine's promises, or
//! findings that point into the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::api::policy::McpPolicy;
use portcullis::api::server::McpServer;
use portcullis::manifest::{self, Object};
use portcullis::policy::target;
use portcullis_fuzz::judge;

fuzz_target!(|text: &str| {
    let manifests = match manifest::parse("policy.yaml", text) {
        Ok(manifests) => manifests,
        Err(errors) => {
            assert!(!errors.is_empty());
            // YAML ends lines with either character.
            let lines = text.matches(['\r', '\n']).count() + 1;
            assert!(
                errors.iter().all(|error| error.at.line as usize <= lines),
                "{errors:?}"
            );
            return;
        }
    };
    let (mut servers, mut policies): (Vec<McpServer>, Vec<McpPolicy>) = Default::default();
    for located in manifests.objects {
        match located.object {
            Object::Server(server) => servers.push(*server),
            Object::Policy(policy) => policies.push(*policy),
            Object::Secret(_) | Object::Namespace(_) => {}
        }
    }
    let server = servers.pop().unwrap_or_else(|| {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"namespace": "ml", "name": "mlflow"},
            "spec": {"upstream": {"http": {"url": "http://mlflow/mcp"}}},
        }))
        .unwrap()
    });
    // All of them, whatever they target: which policies meet is not what is asked here.
    judge(&target::bundle(&server, &policies, Vec::new(), 1).unwrap());
});
