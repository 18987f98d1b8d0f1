//! `portcullis crds`: the custom resource definitions, as YAML.
//!
//! In: nothing. Out: the three definitions, to be piped into `kubectl apply -f -`. `crds/*.yaml`
//! are this output, cut up.
//! Must not do: talk to a cluster.

use crate::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use std::io::{self, Write};

/// Print the custom resource definitions as YAML.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// Why the definitions could not be printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A definition could not be written as YAML.
    #[error("cannot write the definition of {0} as YAML: {1}")]
    Yaml(String, String),
    /// The output could not be written to.
    #[error("cannot write the definitions to the output: {0}")]
    Output(#[from] io::Error),
}

/// One definition as a YAML document, without a leading `---`.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, Error> {
    let failed = |e: String| Error::Yaml(crd.metadata.name.clone().unwrap_or_default(), e);
    // Through a value, so that keys come out sorted and the file does not depend on the order of
    // fields in the types.
    let value = serde_json::to_value(crd).map_err(|e| failed(e.to_string()))?;
    serde_saphyr::to_string(&value).map_err(|e| failed(e.to_string()))
}

/// Writes all definitions to `out`.
pub fn run(_args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    for crd in api::crds() {
        writeln!(out, "---")?;
        out.write_all(yaml(&crd)?.as_bytes())?;
    }
    out.flush()?;
    Ok(())
}
