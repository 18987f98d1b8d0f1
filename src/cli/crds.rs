//! `portcullis crds`: the custom resource definitions, as YAML.
//!
//! In: nothing. Out: the three definitions, to be piped into `kubectl apply -f -`. `crds/*.yaml`
//! are this output, cut up.
//! Must not do: talk to a cluster.

use crate::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
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
    let mut value = serde_json::to_value(crd).map_err(|e| failed(e.to_string()))?;
    write_whole_numbers(&mut value);
    serde_saphyr::to_string(&value).map_err(|e| failed(e.to_string()))
}

/// Bounds are floating-point numbers in the types; the API server writes whole ones without a
/// fraction, and a tool that compares texts would see a difference.
fn write_whole_numbers(value: &mut Value) {
    /// A double holds every whole number up to here.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Array(items) => items.iter_mut().for_each(write_whole_numbers),
        Value::Object(members) => members.values_mut().for_each(write_whole_numbers),
        Value::Number(number) => {
            let whole = number
                .as_f64()
                .filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT);
            if let Some(whole) = whole.and_then(|float| format!("{float:.0}").parse::<i64>().ok()) {
                *number = whole.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
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
