//! The API server's audit log, as an oracle of who wrote what.

use serde_json::Value;

use super::Cluster;

impl Cluster {
    /// The writes that somebody other than the control plane made since the start, refused ones
    /// too: user, verb, what it was (`group/resource/subresource`), namespace, name and the code of
    /// the answer. A refused creation has no name: that is in its body only. Needs a control plane
    /// of our own.
    pub fn writes(&self) -> Vec<Write> {
        let text = std::fs::read_to_string(self.folder().join("audit.log")).unwrap_or_default();
        // The last line may be in the writing.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| Write::read(&serde_json::from_str(line).unwrap()))
            .collect()
    }
}

/// One request that asked for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub user: String,
    pub verb: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub code: u64,
}

impl Write {
    fn read(event: &Value) -> Self {
        let text = |pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let parts =
            ["apiGroup", "resource", "subresource"].map(|key| text(&format!("/objectRef/{key}")));
        let who = match text("/impersonatedUser/username") {
            none if none.is_empty() => text("/user/username"),
            user => user,
        };
        Write {
            user: who,
            verb: text("/verb"),
            resource: parts
                .iter()
                .filter(|part| !part.is_empty())
                .cloned()
                .collect::<Vec<_>>()
                .join("/"),
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
        }
    }
}
