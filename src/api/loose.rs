//! Objects that are kept even when they cannot be parsed, so that one of them never stops the
//! others.
//!
//! In: an object as the API server stores it. Out: the typed object, or why there is none, with the
//! targets of a policy if they can be read. Must not do: guess at anything else.

use std::borrow::Cow;
use std::sync::Arc;

use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::nulls;
use super::raw::{self, Object, members, read};
use crate::Unknown;
use crate::policy::{LabelSelector, McpPolicy, McpPolicySpec, TargetRef};

/// The maximum number of bytes of a spec: decoded, lists of small values take many times their
/// text. A policy may have half of it, and the API server writes some characters as six.
const LARGEST_SPEC: usize = 512 * 1024;

/// An object, parsed or not.
#[derive(Clone, Debug)]
pub struct Loose<K>(Result<Arc<K>, Box<Undecoded>>);

/// An object that does not conform to its kind.
#[derive(Clone, Debug)]
pub struct Undecoded {
    metadata: ObjectMeta,
    /// What is wrong, with the field.
    pub error: String,
    status: Option<Value>,
    /// Its targets, if it is a policy.
    target_refs: Vec<TargetRef>,
    target_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
}

impl<K: Resource> Loose<K> {
    /// The object, if it was parsed.
    pub fn object(&self) -> Result<&Arc<K>, &Undecoded> {
        self.0.as_ref().map_err(|undecoded| &**undecoded)
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(undecoded) => &undecoded.metadata,
        }
    }

    /// The status, which `of` takes out of a parsed object.
    pub fn status<S: DeserializeOwned + Clone>(&self, of: impl Fn(&K) -> &Option<S>) -> Option<S> {
        match &self.0 {
            Ok(object) => of(object).clone(),
            Err(undecoded) => undecoded.status(),
        }
    }
}

impl<K> From<K> for Loose<K> {
    fn from(object: K) -> Self {
        Loose(Ok(Arc::new(object)))
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Loose<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::deserialize(deserializer)?;
        let size = object.members().get("spec").map(|spec| spec.get().len());
        let decoded = match size {
            Some(size) if size > LARGEST_SPEC => Err(format!(
                "spec: this has {size} bytes and may have {LARGEST_SPEC}"
            )),
            _ => object.value(&[]).and_then(|value| {
                // An absent field means the default; an empty value in a template must not.
                if let Some(path) = value.get("spec").and_then(nulls::first) {
                    return Err(format!("{path} is null: write a value or remove the field"));
                }
                K::deserialize(value).map_err(|error| error.to_string())
            }),
        };
        Ok(Loose(match decoded {
            Ok(object) => Ok(Arc::new(object)),
            Err(error) => Err(Box::new(Undecoded::of(&object, error))),
        }))
    }
}

impl<K: Resource + Clone> Resource for Loose<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => Arc::make_mut(object).meta_mut(),
            Err(undecoded) => &mut undecoded.metadata,
        }
    }
}

impl Undecoded {
    fn of(object: &Object, error: String) -> Self {
        let members = object.members();
        let spec = members.get("spec").map(|spec| raw::members(spec));
        let spec = spec.unwrap_or_default();
        Undecoded {
            metadata: object.metadata(),
            error,
            status: members.get("status").and_then(|status| read(status)),
            target_refs: target_refs(spec.get("targetRefs").copied()),
            target_selector: spec.get("targetSelector").and_then(|text| selector(text)),
            namespace_selector: spec
                .get("namespaceSelector")
                .and_then(|text| selector(text)),
        }
    }

    /// Its status, if that can be read.
    pub fn status<S: DeserializeOwned>(&self) -> Option<S> {
        serde_json::from_value(self.status.clone()?).ok()
    }

    /// The policy with only its targets, as far as they can be read: enough to know which servers
    /// must not continue without it.
    pub fn targets_only(&self) -> McpPolicy {
        McpPolicy {
            metadata: self.metadata.clone(),
            spec: McpPolicySpec {
                target_refs: self.target_refs.clone(),
                target_selector: self.target_selector.clone(),
                namespace_selector: self.namespace_selector.clone(),
                mode: None,
                default_action: None,
                rules: Vec::new(),
                prompts: Vec::new(),
                resources: Vec::new(),
            },
            status: None,
        }
    }
}

/// The named servers: one invalid reference does not hide the others.
fn target_refs(text: Option<&RawValue>) -> Vec<TargetRef> {
    let items: Vec<&RawValue> = text
        .and_then(|text| serde_json::from_str(text.get()).ok())
        .unwrap_or_default();
    let target = |item: &&RawValue| {
        let members = members(item);
        let field = |name: &str| members.get(name).and_then(|text| read::<String>(text));
        Some(TargetRef {
            name: field("name")?,
            group: field("group").unwrap_or_default(),
            kind: field("kind").unwrap_or_default(),
            unknown: Unknown::new(),
        })
    };
    items.iter().filter_map(target).collect()
}

/// The labels of the selector; an unreadable one is left out, so that the policy concerns more
/// servers rather than fewer.
fn selector(text: &RawValue) -> Option<LabelSelector> {
    // A value that is not an object counts as absent.
    text.get().starts_with('{').then(|| {
        let labels = members(text).remove("matchLabels").map(members);
        LabelSelector {
            match_labels: labels
                .unwrap_or_default()
                .into_iter()
                .filter_map(|(key, value)| Some((key, read(value)?)))
                .collect(),
            unknown: Unknown::new(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::McpServer;
    use serde_json::json;

    #[test]
    fn a_policy_that_is_not_understood_still_says_what_it_is_for() {
        let text = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
            "metadata": {"namespace": "ml", "name": "p", "uid": "u", "generation": 2},
            "spec": {
                "targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "mlflow"}],
                "rules": [{"name": "r", "tools": {}, "action": "Permit"}],
            },
        })
        .to_string();
        let loose: Loose<McpPolicy> = serde_json::from_str(&text).unwrap();
        let undecoded = loose.object().unwrap_err();
        assert!(undecoded.error.contains("Permit"), "{}", undecoded.error);
        let policy = undecoded.targets_only();
        assert_eq!(policy.spec.target_refs[0].name, "mlflow");
        assert_eq!(policy.metadata.generation, Some(2));
    }

    #[test]
    fn a_null_is_not_a_field_left_out() {
        let error = |kind: &str, spec: serde_json::Value| {
            let text =
                json!({"metadata": {"namespace": "ml", "name": "p", "uid": "u"}, "spec": spec})
                    .to_string();
            match kind {
                "McpPolicy" => serde_json::from_str::<Loose<McpPolicy>>(&text)
                    .unwrap()
                    .object()
                    .err()
                    .map(|undecoded| undecoded.error.clone()),
                _ => serde_json::from_str::<Loose<McpServer>>(&text)
                    .unwrap()
                    .object()
                    .err()
                    .map(|undecoded| undecoded.error.clone()),
            }
        };
        let refused =
            |path: &str| Some(format!("{path} is null: write a value or remove the field"));
        let policy = |rule: serde_json::Value| error("McpPolicy", json!({"rules": [rule]}));
        assert_eq!(
            policy(json!({"name": "r", "tools": {"names": null}, "action": "Allow"})),
            refused("spec.rules[0].tools.names")
        );
        assert_eq!(
            policy(json!({"name": "r", "tools": {}, "action": "Allow", "when": null})),
            refused("spec.rules[0].when")
        );
        assert_eq!(
            error(
                "McpPolicy",
                json!({"resources": [{"name": "r", "uris": ["*"], "exceptUris": null, "action": "Allow"}]})
            ),
            refused("spec.resources[0].exceptUris")
        );
        let server = |more: serde_json::Value| {
            let mut spec = json!({"upstream": {"http": {"url": "http://a/mcp"}}});
            spec.as_object_mut()
                .unwrap()
                .append(&mut more.as_object().unwrap().clone());
            error("McpServer", spec)
        };
        assert_eq!(
            server(json!({"tools": [{"name": "t", "definitionDigest": null}]})),
            refused("spec.tools[0].definitionDigest")
        );
        assert_eq!(
            server(json!({"gateway": {"resources": null}})),
            refused("spec.gateway.resources")
        );
        // Kubernetes' own types say themselves what a null means in them.
        assert_eq!(
            server(json!({"gateway": {"resources": {"limits": null}}})),
            None
        );
    }

    #[test]
    fn a_policy_that_is_too_deep_anywhere_still_says_what_it_is_for() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let rule = format!(r#"{{"name":"r","tools":{{}},"action":"Allow","junk":{deep}}}"#);
        let reference = |name: &str, junk: &str| {
            format!(
                r#"{{"group":"portcullis.dev","kind":"McpServer","name":"{name}","junk":{junk}}}"#
            )
        };
        let policy = |spec: &str| -> McpPolicy {
            let text = format!(
                r#"{{"metadata":{{"namespace":"ml","name":"p","uid":"u"}},"spec":{{{spec}}},"status":{{"observedGeneration":3}}}}"#
            );
            let loose: Loose<McpPolicy> = serde_json::from_str(&text).unwrap();
            let undecoded = loose.object().unwrap_err();
            assert!(
                undecoded.error.contains("nested too deeply"),
                "{}",
                undecoded.error
            );
            let status: serde_json::Value = undecoded.status().unwrap();
            assert_eq!(status, json!({"observedGeneration": 3}));
            undecoded.targets_only()
        };
        let two = format!(
            r#""rules":[{rule}],"targetRefs":[{},{}]"#,
            reference("a", "1"),
            reference("b", &deep)
        );
        let names: Vec<String> = policy(&two)
            .spec
            .target_refs
            .into_iter()
            .map(|target| target.name)
            .collect();
        assert_eq!(names, ["a", "b"]);
        let labelled =
            format!(r#""targetSelector":{{"matchLabels":{{"team":"ml"}},"junk":{deep}}}"#);
        let labels = policy(&labelled).spec.target_selector.unwrap().match_labels;
        assert_eq!(labels["team"], "ml");
        assert_eq!(
            policy(&format!(r#""targetSelector":null,"rules":[{rule}]"#))
                .spec
                .target_selector,
            None
        );
    }

    #[test]
    fn nothing_is_kept_of_a_spec_that_is_too_large_but_what_it_is_for() {
        let zeros = vec![0; LARGEST_SPEC / 2];
        let text = json!({
            "metadata": {"namespace": "ml", "name": "p", "uid": "u"},
            "spec": {
                "targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "mlflow"}],
                "rules": [{"name": "r", "tools": {}, "action": "Allow", "junk": zeros}],
            },
        })
        .to_string();
        let loose: Loose<McpPolicy> = serde_json::from_str(&text).unwrap();
        let undecoded = loose.object().unwrap_err();
        assert!(
            undecoded.error.contains("may have 524288"),
            "{}",
            undecoded.error
        );
        assert_eq!(undecoded.targets_only().spec.target_refs[0].name, "mlflow");
    }
}
