//! The columns that `kubectl get` shows, without kubectl.
//!
//! In: an object as JSON. Out: its cells, by the very printer columns of its definition, so that `portcullis status` and
//! `kubectl get` cannot disagree. Must not do: format for a terminal, or look at the clock.

use crate::api;
use jiff::Timestamp;
use kube::core::cel::apply_defaults;
use serde_json::Value;

/// The columns of one kind.
#[derive(Clone, Debug)]
pub struct Columns {
    columns: Vec<Column>,
    schema: Value,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    path: String,
    is_age: bool,
}

impl Columns {
    /// The columns of `kind`, with those of `-o wide` if asked for. A kind that is not ours has none.
    pub fn of(kind: &str, wide: bool) -> Self {
        let version = api::crds()
            .into_iter()
            .find(|crd| crd.spec.names.kind == kind)
            .and_then(|crd| crd.spec.versions.into_iter().next());
        let columns = version
            .as_ref()
            .and_then(|version| version.additional_printer_columns.clone())
            .unwrap_or_default();
        let schema = version
            .and_then(|version| serde_json::to_value(version.schema?.open_api_v3_schema?).ok())
            .unwrap_or_default();
        let shown = columns
            .into_iter()
            .filter(|column| wide || column.priority.unwrap_or(0) == 0);
        // kubectl puts the name first by itself.
        let name = Column {
            name: "Name".to_owned(),
            path: ".metadata.name".to_owned(),
            is_age: false,
        };
        Columns {
            columns: std::iter::once(name)
                .chain(shown.map(|column| Column {
                    name: column.name,
                    path: column.json_path,
                    is_age: column.type_ == "date",
                }))
                .collect(),
            schema,
        }
    }

    /// The headings.
    pub fn headings(&self) -> Vec<&str> {
        self.columns
            .iter()
            .map(|column| column.name.as_str())
            .collect()
    }

    /// One object's cells. `age` writes a number of seconds as kubectl does; what is not there is an empty cell.
    pub fn row(&self, object: &Value, now: Timestamp, age: impl Fn(i64) -> String) -> Vec<String> {
        // An API server writes defaults into what it stores, and shows them.
        let object = &apply_defaults(&self.schema, object);
        self.columns
            .iter()
            .map(|column| match find(object, &column.path) {
                Some(Value::String(text)) if column.is_age => text
                    .parse::<Timestamp>()
                    .map(|time| age(now.as_second() - time.as_second()))
                    .unwrap_or_default(),
                Some(Value::String(text)) => text.clone(),
                None | Some(Value::Null) => String::new(),
                Some(other) => other.to_string(),
            })
            .collect()
    }
}

/// The value at a path of the two forms that our columns have: `.a.b`, and `.a[?(@.type=="X")].b`.
fn find<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let Some((list, rest)) = path.split_once("[?(@.type==\"") else {
        return object.pointer(&path.replace('.', "/"));
    };
    let (kind, rest) = rest.split_once("\")]")?;
    let entry = find(object, list)?
        .as_array()?
        .iter()
        .find(|entry| entry["type"] == kind)?;
    find(entry, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_has_the_cells_that_kubectl_shows() {
        let columns = Columns::of("McpServer", true);
        assert_eq!(
            columns.headings(),
            [
                "Name",
                "Ready",
                "URL",
                "Visible",
                "Policies",
                "Violations",
                "Age",
                "Revision",
                "Replicas"
            ]
        );
        let object = json!({
            "metadata": { "name": "mlflow", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "status": {
                "conditions": [{ "type": "Accepted", "status": "True" }, { "type": "Ready", "status": "False" }],
                "url": "http://a", "tools": { "summary": "31/40" }, "policyCount": 2,
                "violations": { "total": 17 }, "revision": "5f2c"
            }
        });
        let now: Timestamp = "2026-01-01T00:01:30Z".parse().unwrap();
        let row = columns.row(&object, now, |seconds| format!("{seconds} s"));
        assert_eq!(
            row,
            [
                "mlflow", "False", "http://a", "31/40", "2", "17", "90 s", "5f2c", ""
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_its_default_or_an_empty_cell() {
        let columns = Columns::of("McpPolicy", false);
        assert_eq!(
            columns.headings(),
            [
                "Name",
                "Mode",
                "Accepted",
                "Programmed",
                "Targets",
                "Violations",
                "Age"
            ]
        );
        let row = columns.row(
            &json!({ "metadata": { "name": "a" }, "spec": {} }),
            Timestamp::UNIX_EPOCH,
            |_| String::new(),
        );
        assert_eq!(row, ["a", "Enforce", "", "", "", "", ""]);
    }
}
