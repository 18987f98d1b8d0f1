//! Why pods do not run, in words.
//!
//! In: the statuses of Deployments and pods. Out: one sentence, with what to change. Pure. Must not
//! do: repeat text of others at any length: messages are cut.

use serde_json::Value;

/// Characters of a message of Kubernetes' that are shown.
const MAX_MESSAGE_CHARS: usize = 400;

/// Why a Deployment has no pods: a quota, a Pod Security level or an admission webhook refuses
/// them.
pub fn of_deployment(status: &Value) -> Option<String> {
    let conditions = status.get("conditions")?.as_array()?;
    let failed = conditions.iter().find(|condition| {
        text(condition, "type") == "ReplicaFailure" && text(condition, "status") == "True"
    })?;
    Some(format!(
        "its pods cannot be made: {}",
        cut(text(failed, "message"))
    ))
}

/// Why a pod does not run, or not for long.
pub fn of_pod(status: &Value) -> Option<String> {
    let containers = ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .filter_map(|list| status.get(list)?.as_array())
        .flatten();
    let mut found = containers.filter_map(of_container);
    found.next().or_else(|| unscheduled(status))
}

fn unscheduled(status: &Value) -> Option<String> {
    let conditions = status.get("conditions")?.as_array()?;
    let condition = conditions.iter().find(|condition| {
        text(condition, "type") == "PodScheduled" && text(condition, "status") == "False"
    })?;
    Some(format!(
        "no node has room for its pod: {}",
        cut(text(condition, "message"))
    ))
}

fn of_container(container: &Value) -> Option<String> {
    let state = container.get("state")?;
    let ended = state
        .get("terminated")
        .or_else(|| container.pointer("/lastState/terminated"));
    let (name, image) = (text(container, "name"), text(container, "image"));
    let waiting = state.get("waiting").unwrap_or(&Value::Null);
    let message = cut(text(waiting, "message"));
    Some(match text(waiting, "reason") {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull"
        | "ImageInspectError" => format!(
            "the image {} cannot be pulled: {message}; correct the image, or give imagePullSecrets",
            cut(image)
        ),
        "CreateContainerConfigError" => {
            format!("its container {name} cannot be made: {message}; create what it refers to")
        }
        "CreateContainerError" | "RunContainerError" | "StartError" => {
            format!("its command cannot be started: {message}; correct the command")
        }
        "CrashLoopBackOff" | "" => return ending(ended?, name, text(waiting, "reason")),
        _ => return None,
    })
}

fn ending(ended: &Value, name: &str, waiting: &str) -> Option<String> {
    let code = ended.get("exitCode").and_then(Value::as_i64).unwrap_or(0);
    let message = cut(text(ended, "message"));
    match text(ended, "reason") {
        "OOMKilled" => Some(format!(
            "its container {name} ran out of memory; raise resources.limits.memory"
        )),
        "ContainerCannotRun" | "StartError" => Some(format!(
            "its command cannot be started: {message}; correct the command"
        )),
        // What a program of ours wrote before it ended.
        _ if code != 0 && !message.is_empty() => {
            Some(format!("its container {name} ended: {message}"))
        }
        _ if waiting.is_empty() => None,
        _ if matches!(code, 126 | 127) => Some(format!(
            "its command is not found or not executable (exit code {code}); correct the command"
        )),
        _ => Some(format!(
            "its container {name} ends again and again with exit code {code}; its log says why"
        )),
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// One line, not too long.
fn cut(message: &str) -> String {
    let line: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_MESSAGE_CHARS)
        .collect();
    line.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(state: Value, last: Value) -> Option<String> {
        of_pod(
            &json!({ "containerStatuses": [{ "name": "server", "image": "r/i:1", "state": state, "lastState": last }] }),
        )
    }

    #[test]
    fn each_cause_is_told_with_what_to_change() {
        let waiting = |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
        let ended = |reason: &str, code: i64| json!({ "terminated": { "reason": reason, "exitCode": code, "message": "exec: no such file" } });
        let silent = |reason: &str, code: i64| json!({ "terminated": { "reason": reason, "exitCode": code } });
        let none = || json!({});
        let cases = [
            (
                container(waiting("ImagePullBackOff", "not found"), none()),
                "the image r/i:1 cannot be pulled: not found; correct the image",
            ),
            (
                container(waiting("InvalidImageName", "x"), none()),
                "the image r/i:1 cannot be pulled",
            ),
            (
                container(
                    waiting("RunContainerError", "exec: \"x\": not found"),
                    none(),
                ),
                "its command cannot be started: exec",
            ),
            (
                container(
                    waiting("CreateContainerConfigError", "secret \"s\" not found"),
                    none(),
                ),
                "secret \"s\" not found",
            ),
            (
                container(
                    waiting("CrashLoopBackOff", "back-off"),
                    ended("OOMKilled", 137),
                ),
                "ran out of memory; raise resources.limits.memory",
            ),
            (
                container(ended("OOMKilled", 137), none()),
                "ran out of memory",
            ),
            (
                container(
                    waiting("CrashLoopBackOff", "back-off"),
                    silent("Error", 127),
                ),
                "not found or not executable (exit code 127)",
            ),
            (
                container(waiting("CrashLoopBackOff", "back-off"), silent("Error", 1)),
                "ends again and again with exit code 1",
            ),
            // What the bridge wrote about its server, while it is tried again.
            (
                container(json!({ "running": {} }), ended("Error", 2)),
                "its container server ended: exec: no such file",
            ),
            (
                container(waiting("CrashLoopBackOff", "b"), ended("StartError", 128)),
                "its command cannot be started: exec: no such file",
            ),
        ];
        for (told, says) in cases {
            let told = told.unwrap();
            assert!(told.contains(says), "{told}");
        }
        for fine in [
            container(json!({ "running": {} }), none()),
            container(waiting("ContainerCreating", ""), none()),
            // It ran, and runs again.
            container(
                json!({ "running": {} }),
                json!({ "terminated": { "reason": "Error", "exitCode": 1 } }),
            ),
        ] {
            assert_eq!(fine, None);
        }
    }

    #[test]
    fn a_refusal_of_pods_and_a_full_node_are_told_in_the_words_of_who_refused() {
        let failed = json!({ "conditions": [{ "type": "ReplicaFailure", "status": "True",
            "message": "pods \"m\" is forbidden: exceeded quota: few" }] });
        let told = of_deployment(&failed).unwrap();
        assert!(told.contains("exceeded quota: few"), "{told}");
        assert_eq!(of_deployment(&json!({ "conditions": [] })), None);
        let full = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu." }] });
        assert!(of_pod(&full).unwrap().contains("Insufficient cpu"));
    }
}
