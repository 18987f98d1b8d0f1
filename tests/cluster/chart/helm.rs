//! Helm as a user runs it, and what it rendered as values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::tool::{self, Printed};
use crate::support::wire::installed;

pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/portcullis");

/// A Helm that knows no cluster.
pub struct Helm(PathBuf);

impl Helm {
    /// None, and a line that says that `what` is skipped, where there is no Helm.
    pub fn get(what: &str) -> Option<Helm> {
        let programs = PathBuf::from(installed("PORTCULLIS_TEST_CONTROLPLANE", what)?);
        Some(Helm(programs.join("helm")))
    }

    pub fn program(&self) -> &Path {
        &self.0
    }

    pub fn run<const N: usize>(&self, arguments: [&str; N], values: &str) -> Printed {
        tool::run(&self.0, Path::new("/dev/null"), arguments, values)
    }

    /// What the chart renders to with these values (YAML).
    pub fn template(&self, values: &str) -> Objects {
        Objects::read(&self.try_template(values).ok())
    }

    pub fn try_template(&self, values: &str) -> Printed {
        self.run(
            [
                "template",
                "portcullis",
                CHART,
                "--namespace",
                "portcullis-system",
                "--values",
                "-",
            ],
            values,
        )
    }
}

/// Objects by `Kind namespace/name`, or `Kind name`.
#[derive(Debug)]
pub struct Objects(pub BTreeMap<String, Value>);

impl Objects {
    pub fn read(text: &str) -> Self {
        let mut objects = BTreeMap::new();
        for document in text.split("\n---") {
            let value: Value = serde_saphyr::from_str(document)
                .unwrap_or_else(|error| panic!("{error}:\n{document}"));
            if value.is_null() {
                continue;
            }
            let metadata = &value["metadata"];
            let name = metadata["name"].as_str().unwrap();
            let place = metadata["namespace"]
                .as_str()
                .map(|namespace| format!("{namespace}/"));
            let key = format!(
                "{} {}{name}",
                value["kind"].as_str().unwrap(),
                place.unwrap_or_default()
            );
            assert!(
                objects.insert(key.clone(), value).is_none(),
                "{key} is there twice"
            );
        }
        Objects(objects)
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    pub fn get(&self, name: &str) -> &Value {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("no {name} among {:#?}", self.names()))
    }
}
