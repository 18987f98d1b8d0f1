//! Objects that are read even when they cannot be understood, so that one of them never stops the others.
//!
//! In: whatever the API server stores. Out: the typed object, or why there is none, with what a policy targets if that can be
//! told. Must not do: guess at anything else.

use std::borrow::Cow;
use std::sync::Arc;

use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::policy::{McpPolicy, McpPolicySpec, TargetSelector};

/// An object, understood or not.
#[derive(Clone, Debug)]
pub struct Loose<K>(Result<Arc<K>, Box<Undecoded>>);

/// An object that is not what its kind should be.
#[derive(Clone, Debug)]
pub struct Undecoded {
    metadata: ObjectMeta,
    /// What is wrong, with the field.
    pub error: String,
    /// Its spec and status as they are; large only if somebody made them so.
    raw: Value,
}

impl<K: Resource> Loose<K> {
    /// The object, if it was understood.
    pub fn object(&self) -> Result<&Arc<K>, &Undecoded> {
        self.0.as_ref().map_err(|undecoded| &**undecoded)
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(undecoded) => &undecoded.metadata,
        }
    }

    /// The status, which `of` takes out of an object that was understood.
    pub fn status<S: DeserializeOwned + Clone>(&self, of: impl Fn(&K) -> &Option<S>) -> Option<S> {
        match &self.0 {
            Ok(object) => of(object).clone(),
            Err(undecoded) => undecoded.status(),
        }
    }
}

/// What nobody here reads of an object's metadata, and what is as large as the rest of it: who manages which field, and
/// `kubectl apply`'s copy of the object.
pub fn thin(metadata: &mut serde_json::Map<String, Value>) {
    metadata.remove("managedFields");
    if let Some(annotations) = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Loose<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut raw = Value::deserialize(deserializer)?;
        if let Some(metadata) = raw.get_mut("metadata").and_then(Value::as_object_mut) {
            thin(metadata);
        }
        let error = match K::deserialize(&raw) {
            Ok(object) => return Ok(Loose(Ok(Arc::new(object)))),
            Err(error) => error.to_string(),
        };
        let metadata = raw.as_object_mut().and_then(|raw| raw.remove("metadata"));
        let metadata: ObjectMeta =
            serde_json::from_value(metadata.unwrap_or_default()).map_err(D::Error::custom)?;
        Ok(Loose(Err(Box::new(Undecoded {
            metadata,
            error,
            raw,
        }))))
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
    /// Its status, if that can be read.
    pub fn status<S: DeserializeOwned>(&self) -> Option<S> {
        serde_json::from_value(self.raw.get("status")?.clone()).ok()
    }

    /// The policy with nothing but its targets, as far as they can be read: enough to know which servers must not go on
    /// without it.
    pub fn targets_only(&self) -> McpPolicy {
        let spec = self.raw.get("spec");
        let read = |field: &str| spec.and_then(|spec| spec.get(field)).cloned();
        let target_refs = read("targetRefs")
            .and_then(|value| serde_json::from_value(value).ok())
            .unwrap_or_default();
        let target_selector: Option<TargetSelector> =
            read("targetSelector").and_then(|value| serde_json::from_value(value).ok());
        McpPolicy {
            metadata: self.metadata.clone(),
            spec: McpPolicySpec {
                target_refs,
                target_selector,
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

#[cfg(test)]
mod tests {
    use super::*;
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
}
