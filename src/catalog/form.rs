//! Canonical forms of the arguments of known tools: as MLflow compares them on its stores.
//!
//! In: a tool and an argument. Out: the canonical form that rules read, if MLflow treats several
//! spellings as the same value. MLflow runs `int()` on versions and experiment ids (`07`, `0_7`, `
//! 7` and `７` are 7), folds the case of stages, and keeps names in columns without a collation of
//! their own: on MySQL, `Churn`, `chürn` and, by the collation, `churn ` with a space are the model
//! `churn`. Some names go into filter strings between quotes, so no form allows quotes. Must not
//! do: decide.

use super::{Entry, Server};
use serde::Serialize;

/// A canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Form {
    /// A number, written as text.
    Number,
    /// A stage of a model version.
    Stage,
    /// A boolean, written as text.
    Switch,
    /// An identifier that a server gave.
    Identifier,
    /// Several of them with commas between.
    Identifiers,
    /// A name that people give.
    Name,
    /// A path below the artifacts of a run.
    Path,
    /// Where the files of a model are.
    Location,
    /// Which experiments or runs are shown.
    View,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 9] = [
        Form::Number,
        Form::Stage,
        Form::Switch,
        Form::Identifier,
        Form::Identifiers,
        Form::Name,
        Form::Path,
        Form::Location,
        Form::View,
    ];

    /// The pattern that the whole text matches.
    pub const fn pattern(self) -> &'static str {
        match self {
            Form::Number => "0|[1-9][0-9]*",
            Form::Stage => "None|Staging|Production|Archived",
            Form::Switch => "true|false",
            Form::Identifier => "[0-9a-z_.:/-]+",
            Form::Identifiers => "[0-9a-z_.:/-]+(,[0-9a-z_.:/-]+)*",
            Form::Name => "([0-9a-z_.:/@+=#-]([ 0-9a-z_.:/@+=#,-]*[0-9a-z_.:/@+=#-])?)?",
            Form::Path => "([0-9A-Za-z_-][0-9A-Za-z_.=@+-]*(/[0-9A-Za-z_-][0-9A-Za-z_.=@+-]*)*)?",
            Form::Location => {
                "((runs|models):|(file|s3|gs|wasbs?|abfss?|dbfs|hdfs|https?|mlflow-artifacts)://[0-9a-z@.:-]*)(/[0-9A-Za-z_-][0-9A-Za-z_.=@+-]*)+"
            }
            Form::View => "active_only|deleted_only|all",
        }
    }

    /// The form in words.
    pub const fn what(self) -> &'static str {
        match self {
            Form::Number => "digits without leading zeros",
            Form::Stage => "the stage as MLflow shows it",
            Form::Switch => "true or false",
            Form::Identifier => "the identifier as MLflow shows it",
            Form::Identifiers => {
                "identifiers as MLflow shows them, with commas and no spaces between"
            }
            Form::Name => {
                "lower-case letters of ASCII, digits and _.:/@+=#-, with spaces and commas inside"
            }
            Form::Path => "a relative path of ASCII without empty or dot segments",
            Form::Location => "a URI of ASCII without empty or dot segments, query or %",
            Form::View => "active_only, deleted_only or all",
        }
    }
}

impl Entry {
    /// The form of an argument; none where every text is another value to MLflow, or the schema
    /// lists all values.
    pub fn form(&self, argument: &str) -> Option<Form> {
        if !self.properties.contains(&argument) {
            return None;
        }
        Some(match argument {
            "version" | "src_version" | "experiment_id" | "experiment_ids" => Form::Number,
            "stage" | "stages" => Form::Stage,
            "run_id" | "run_ids" | "parent_run_id" | "model_id" | "trace_id" | "assessment_id"
            | "span_id" => Form::Identifier,
            "trace_ids" if self.name == "link_traces_to_run" => Form::Identifier,
            "trace_ids" => Form::Identifiers,
            "name" | "model_name" | "src_model_name" | "dst_model_name" | "experiment_name"
            | "new_name" | "run_name" | "alias" | "key" | "metric" | "metric_name" | "endpoint"
            | "target" | "flavor" | "env_manager" | "content_type" | "host" => Form::Name,
            // Files of the server, which rules are to name by one spelling.
            "path" | "artifact_path" | "input_path" | "output_path" | "output_directory"
            | "mlflow_home" => Form::Path,
            "workers" => Form::Number,
            "model_uri" | "artifact_location" => Form::Location,
            "view" => Form::View,
            "include_spans"
            | "verbose"
            | "builtin"
            | "clear_trace_archival_retention"
            | "trace_archive_now"
            | "clear_trace_archive_now"
            | "no_conda"
            | "install_mlflow"
                if self.server == Server::MlflowCli =>
            {
                Form::Switch
            }
            _ => return None,
        })
    }
}

/// Arguments that are text to MLflow as they stand: every spelling is another value, or the schema
/// lists them all. Kept so that a new argument must be examined before it counts as one of these.
#[cfg(test)]
pub(super) const FREE: [&str; 39] = [
    "archive_existing",
    "ascending",
    "base_url",
    "config",
    "datasets",
    "description",
    "env",
    "extra_headers",
    "extract_fields",
    "filter_string",
    "install_java",
    "instructions",
    "limit",
    "max_results",
    "max_timestamp_millis",
    "max_traces",
    "metadata",
    "model",
    "offset",
    "operation",
    "order_by",
    "output",
    "output_format",
    "page_token",
    "pip_requirements_override",
    "port",
    "query",
    "rationale",
    "requirement_strings",
    "scorers",
    "source_id",
    "source_type",
    "sql_warehouse_id",
    "status",
    "tags",
    "timeout",
    "trace_archival_retention",
    "trace_archive_now_older_than",
    "value",
];
