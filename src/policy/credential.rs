//! Environment variables of one entry of `upstream.stdio.credentials`, as the operator hands them
//! to a bridge and as both name them to each other.
//!
//! In: variables of a spec, or the text that the operator wrote. Out: the text, an id that is the
//! same on both sides as long as they mean the same variables, and the values once Secrets are at
//! hand. The id says nothing of callers, and nothing of the entry's place: a bridge that is older
//! or newer than the gateway's bundle never takes one credential for another. Must not do: read
//! Secrets, or show a value of one.

use std::ffi::OsString;
use std::str::FromStr;

use k8s_openapi::api::core::v1::EnvVar;
use serde::{Deserialize, Serialize};

use super::canonical;

/// The variables of a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CredentialVariables(Vec<CredentialVariable>);

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CredentialVariable {
    name: String,
    #[serde(flatten)]
    source: VariableSource,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum VariableSource {
    Value { value: String },
    Key { secret: String, key: String },
}

/// Why a credential has no values now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// These keys of Secrets, as `NAME/KEY`, are not there.
    #[error("Secrets are missing: {}", .0.join(", "))]
    Missing(Vec<String>),
    /// The value of this variable cannot be one.
    #[error("the value of {0} is not text")]
    NotText(String),
}

impl CredentialVariables {
    /// Those of a spec.
    ///
    /// # Errors
    /// The place in the list, and what to write instead.
    pub fn of(env: &[EnvVar]) -> Result<Self, (usize, String)> {
        let mut variables: Vec<CredentialVariable> = Vec::with_capacity(env.len());
        for (at, variable) in env.iter().enumerate() {
            let name = variable.name.clone();
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err((at, "write the name of an environment variable".to_owned()));
            }
            if variables.iter().any(|before| before.name == name) {
                return Err((
                    at,
                    format!("the variable {name} is there twice; write it once"),
                ));
            }
            let source = match (&variable.value, &variable.value_from) {
                (value, None) => VariableSource::Value {
                    value: value.clone().unwrap_or_default(),
                },
                (None, Some(source)) => {
                    let reference = source.secret_key_ref.as_ref().ok_or_else(|| {
                        let why = "a credential's variable has a value, or a valueFrom.secretKeyRef; write one of them";
                        (at, why.to_owned())
                    })?;
                    if reference.optional == Some(true) {
                        // Without the variable, the process would have what `env` says.
                        let why = "a credential cannot be optional: remove `optional`";
                        return Err((at, why.to_owned()));
                    }
                    if !is_segment(&reference.name) || !is_segment(&reference.key) {
                        let why = "write the name and the key of a Secret";
                        return Err((at, why.to_owned()));
                    }
                    VariableSource::Key {
                        secret: reference.name.clone(),
                        key: reference.key.clone(),
                    }
                }
                (Some(_), Some(_)) => {
                    let why = "write exactly one of value and valueFrom";
                    return Err((at, why.to_owned()));
                }
            };
            variables.push(CredentialVariable { name, source });
        }
        Ok(CredentialVariables(variables))
    }

    /// What gateway and bridge call it.
    pub fn id(&self) -> String {
        // Variables are plain data: they can always be written.
        let value = serde_json::to_value(self).unwrap_or_default();
        let digest = canonical::sha256(canonical::plain(&value).as_bytes());
        hex::encode(&digest[..16])
    }

    /// The text that [`FromStr`] reads.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The names of the variables.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|variable| variable.name.as_str())
    }

    /// The names of the Secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|variable| match &variable.source {
            VariableSource::Key { secret, .. } => Some(secret.as_str()),
            VariableSource::Value { .. } => None,
        })
    }

    /// Names and values; `secret` gives the value of a key of a Secret.
    ///
    /// # Errors
    /// [`Unresolved`]: there are all values or none.
    pub fn resolve(
        &self,
        mut secret: impl FnMut(&str, &str) -> Option<Vec<u8>>,
    ) -> Result<Vec<(OsString, OsString)>, Unresolved> {
        let mut missing = Vec::new();
        let mut resolved = Vec::with_capacity(self.0.len());
        for variable in &self.0 {
            let value = match &variable.source {
                VariableSource::Value { value } => Some(value.clone().into_bytes()),
                VariableSource::Key { secret: name, key } => secret(name, key),
            };
            let Some(value) = value else {
                if let VariableSource::Key { secret, key } = &variable.source {
                    missing.push(format!("{secret}/{key}"));
                }
                continue;
            };
            let text = String::from_utf8(value).ok();
            let text = text
                .filter(|text| !text.contains('\0'))
                .ok_or_else(|| Unresolved::NotText(variable.name.clone()))?;
            resolved.push((OsString::from(&variable.name), OsString::from(text)));
        }
        if missing.is_empty() {
            Ok(resolved)
        } else {
            Err(Unresolved::Missing(missing))
        }
    }
}

impl FromStr for CredentialVariables {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read: CredentialVariables = serde_json::from_str(text).map_err(|error| {
            format!(
                r#"{error}; write a list such as [{{"name":"USER","value":"alice"}},{{"name":"PASSWORD","secret":"alice","key":"password"}}]"#
            )
        })?;
        let is_path = |variable: &CredentialVariable| match &variable.source {
            VariableSource::Key { secret, key } => !is_segment(secret) || !is_segment(key),
            VariableSource::Value { .. } => false,
        };
        match read.0.iter().find(|variable| is_path(variable)) {
            Some(variable) => Err(format!(
                "{}: secret and key are the names of a folder and of a file in it",
                variable.name
            )),
            None => Ok(read),
        }
    }
}

/// Whether a name leads to one entry of a folder and nowhere else.
fn is_segment(name: &str) -> bool {
    !name.is_empty() && !name.starts_with("..") && !name.contains(['/', '\0']) && name != "."
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(env: serde_json::Value) -> Result<CredentialVariables, String> {
        let env: Vec<EnvVar> = serde_json::from_value(env).unwrap();
        CredentialVariables::of(&env).map_err(|(at, why)| format!("[{at}] {why}"))
    }

    fn from(secret: &str, key: &str) -> serde_json::Value {
        json!({ "secretKeyRef": { "name": secret, "key": key } })
    }

    #[test]
    fn both_sides_call_the_same_variables_the_same_and_no_others() {
        let one = of(json!([{ "name": "USER", "value": "alice" },
                            { "name": "PASSWORD", "valueFrom": from("alice", "password") }]))
        .unwrap();
        let there: CredentialVariables = one.to_text().parse().unwrap();
        assert_eq!((&there, there.id()), (&one, one.id()));
        for other in [
            json!([{ "name": "USER", "value": "bob" }, { "name": "PASSWORD", "valueFrom": from("alice", "password") }]),
            json!([{ "name": "USER", "value": "alice" }, { "name": "PASSWORD", "valueFrom": from("bob", "password") }]),
            json!([{ "name": "USER", "value": "alice" }, { "name": "PASSWORD", "valueFrom": from("alice", "token") }]),
            json!([{ "name": "USER", "value": "alice" }]),
            json!([{ "name": "USER", "value": "alice" }, { "name": "PASSWORD", "value": "alice/password" }]),
        ] {
            assert_ne!(of(other).unwrap().id(), one.id());
        }
    }

    #[test]
    fn a_credential_has_all_its_values_or_none() {
        let one = of(json!([{ "name": "USER", "value": "alice" },
                            { "name": "PASSWORD", "valueFrom": from("alice", "password") },
                            { "name": "TOKEN", "valueFrom": from("alice", "token") }]))
        .unwrap();
        let values = one.resolve(|_, key| Some(key.as_bytes().to_vec())).unwrap();
        let expected = [
            ("USER", "alice"),
            ("PASSWORD", "password"),
            ("TOKEN", "token"),
        ];
        assert_eq!(
            values,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
        let missing = one.resolve(|_, key| (key == "token").then(Vec::new));
        assert_eq!(
            missing,
            Err(Unresolved::Missing(vec!["alice/password".to_owned()]))
        );
        let binary = one.resolve(|_, _| Some(vec![0xff]));
        assert_eq!(binary, Err(Unresolved::NotText("PASSWORD".to_owned())));
    }

    #[test]
    fn what_could_leave_the_shared_value_in_place_is_refused() {
        let mut optional = from("alice", "password");
        optional["secretKeyRef"]["optional"] = json!(true);
        for (env, says) in [
            (
                json!([{ "name": "A", "valueFrom": optional }]),
                "cannot be optional",
            ),
            (
                json!([{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "x" } } }]),
                "secretKeyRef",
            ),
            (
                json!([{ "name": "A", "value": "1" }, { "name": "A", "value": "2" }]),
                "[1] the variable A is there twice",
            ),
            (
                json!([{ "name": "A", "value": "1", "valueFrom": from("a", "b") }]),
                "exactly one",
            ),
            (json!([{ "name": "", "value": "1" }]), "name"),
            (json!([{ "name": "A=B", "value": "1" }]), "name"),
            (
                json!([{ "name": "A", "valueFrom": from("../a", "b") }]),
                "Secret",
            ),
        ] {
            let refused = of(env.clone()).unwrap_err();
            assert!(refused.contains(says), "{env}: {refused}");
        }
        for text in [
            "",
            "{}",
            r#"[{"name":"A"}]"#,
            r#"[{"name":"A","secret":"a"}]"#,
            r#"[{"name":"A","secret":"..","key":"token"}]"#,
            r#"[{"name":"A","secret":"a","key":"../b/token"}]"#,
        ] {
            assert!(text.parse::<CredentialVariables>().is_err(), "{text}");
        }
    }
}
