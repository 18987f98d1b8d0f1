//! One object of the API server as text; each part of it is read on its own.
//!
//! In: any JSON, however deep. Out: the parts that can be read, each without touching the others.
//! Must not do: fail because of another part's content. The API server keeps values nested
//! thousands of levels deep where a schema preserves unknown fields, and serde_json refuses more
//! than 127 levels; skipping them uses no stack.

use std::collections::BTreeMap;

use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// An object, unparsed.
///
/// Deserializing it needs the original text, so it must not be inside a flattened or an untagged
/// type, which buffer. kube's lists keep items as text, and so do its watch events, because the API
/// server writes an event's `type` before its `object`.
pub struct Object(Box<RawValue>);

/// The members of an object, as text.
pub type Members<'o> = BTreeMap<String, &'o RawValue>;

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Object)
    }
}

/// The members of an object; none if it is not an object.
pub fn members(text: &RawValue) -> Members<'_> {
    serde_json::from_str(text.get()).unwrap_or_default()
}

/// The value of a text, if it has that type.
pub fn read<T: for<'de> Deserialize<'de>>(text: &RawValue) -> Option<T> {
    serde_json::from_str(text.get()).ok()
}

/// The value of a text, or what is wrong with it.
fn value(text: &RawValue) -> Result<Value, String> {
    serde_json::from_str(text.get()).map_err(|error| {
        let error = error.to_string();
        if error.contains("recursion limit exceeded") {
            "this is nested too deeply; nothing that has a meaning here is".to_owned()
        } else {
            format!("this cannot be read: {error}")
        }
    })
}

/// The steps of the path to an unreadable part, for a message: as deep as
/// `spec.rules[0].limits[0].unknown`.
const STEPS: usize = 6;

/// The path to the first part that cannot be read, and what is wrong with it.
fn fault(mut path: String, mut text: &RawValue, mut error: String) -> String {
    for _ in 1..STEPS {
        let parts: Vec<(String, &RawValue)> = if text.get().starts_with('[') {
            let items: Vec<&RawValue> = serde_json::from_str(text.get()).unwrap_or_default();
            let place = |(at, item)| (format!("[{at}]"), item);
            items.into_iter().enumerate().map(place).collect()
        } else {
            let place = |(key, member)| (format!(".{key}"), member);
            members(text).into_iter().map(place).collect()
        };
        let wrong = parts
            .into_iter()
            .find_map(|(step, part)| Some((step, part, value(part).err()?)));
        let Some((step, part, why)) = wrong else {
            break;
        };
        path.push_str(&step);
        (text, error) = (part, why);
    }
    // Lists within lists add nothing.
    while path.ends_with(']')
        && let Some(at) = path.rfind('[')
    {
        path.truncate(at);
    }
    format!("{path}: {error}")
}

impl Object {
    pub fn members(&self) -> Members<'_> {
        members(&self.0)
    }

    /// The metadata without the fields that Portcullis does not read; unreadable fields are left
    /// out.
    pub fn metadata(&self) -> ObjectMeta {
        let metadata = self.members().remove("metadata").map(thin);
        let metadata = metadata.unwrap_or_default();
        if let Ok(metadata) = serde_json::from_value(Value::Object(metadata.clone())) {
            return metadata;
        }
        let alone = |key: &String, value: &Value| {
            serde_json::from_value::<ObjectMeta>(json!({ key.as_str(): value })).is_ok()
        };
        let readable = metadata
            .into_iter()
            .filter(|(key, value)| alone(key, value))
            .collect();
        serde_json::from_value(Value::Object(readable)).unwrap_or_default()
    }

    /// The object except the members `without`, its metadata reduced as in [`Object::metadata`]; or
    /// the unreadable member and its error.
    pub fn value(&self, without: &[&str]) -> Result<Value, String> {
        let mut object = Map::new();
        for (key, text) in self.members() {
            if without.contains(&key.as_str()) {
                continue;
            }
            let member = match key.as_str() {
                "metadata" => Value::Object(thin(text)),
                _ => value(text).map_err(|error| fault(key.clone(), text, error))?,
            };
            object.insert(key, member);
        }
        Ok(Value::Object(object))
    }
}

/// Metadata without the parts that are as large, and as deep, as the rest of the object: managed
/// fields, and `kubectl apply`'s copy of the object.
fn thin(metadata: &RawValue) -> Map<String, Value> {
    let mut thin: Map<String, Value> = members(metadata)
        .into_iter()
        .filter(|(key, _)| key != "managedFields")
        .filter_map(|(key, text)| Some((key, read(text)?)))
        .collect();
    if let Some(annotations) = thin.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    thin
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::{ObjectList, WatchEvent};

    impl Clone for Object {
        fn clone(&self) -> Self {
            Object(self.0.clone())
        }
    }

    /// A value nested in that number of lists.
    fn deep(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }

    /// An object whose spec and metadata are nested that deep.
    fn object(levels: usize) -> String {
        let deep = deep(levels);
        format!(
            r#"{{"metadata":{{"name":"p","managedFields":[{{"fieldsV1":{deep}}}],"labels":{{"a":"b"}}}},"spec":{deep},"status":{{"x":1}}}}"#
        )
    }

    #[test]
    fn one_deep_object_fails_neither_a_list_nor_a_watch_event() {
        for levels in [10, 200, 100_000] {
            let object = object(levels);
            let list = format!(
                r#"{{"apiVersion":"v1","kind":"List","metadata":{{"resourceVersion":"7"}},"items":[{object},{{"metadata":{{"name":"q"}}}}]}}"#
            );
            let list: ObjectList<Object> = serde_json::from_str(&list).unwrap();
            let event = format!(r#"{{"type":"MODIFIED","object":{object}}}"#);
            let event: WatchEvent<Object> = serde_json::from_str(&event).unwrap();
            let WatchEvent::Modified(event) = event else {
                panic!("another event");
            };
            for object in [&list.items[0], &event] {
                assert_eq!(object.metadata().name.as_deref(), Some("p"), "{levels}");
                assert_eq!(object.metadata().labels.unwrap().len(), 1);
                assert_eq!(object.value(&[]).is_ok(), levels == 10);
                // What else there is can be read without the deep part.
                let rest = object.value(&["spec"]).unwrap();
                assert_eq!(rest["status"], json!({"x": 1}));
                assert_eq!(rest["metadata"].get("managedFields"), None);
            }
            assert_eq!(list.items[1].metadata().name.as_deref(), Some("q"));
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let error = |text: &str| {
            let object: Object = serde_json::from_str(text).unwrap();
            object.value(&[]).unwrap_err()
        };
        assert_eq!(
            error(&object(200)),
            "spec: this is nested too deeply; nothing that has a meaning here is"
        );
        let rule = format!(
            r#"{{"spec":{{"rules":[1,{{"a":2,"junk":{}}}]}}}}"#,
            deep(200)
        );
        let text = error(&rule);
        assert!(text.starts_with("spec.rules[1].junk: "), "{text}");
        let text = error(r#"{"spec":{"tools":[{"a":1e999}]}}"#);
        assert!(
            text.starts_with("spec.tools[0].a: this cannot be read: "),
            "{text}"
        );
    }

    #[test]
    fn metadata_that_is_wrong_in_part_is_read_in_part() {
        let text = r#"{"metadata":{"name":"p","uid":"u","generation":"many","labels":[1]}}"#;
        let object: Object = serde_json::from_str(text).unwrap();
        let metadata = object.metadata();
        assert_eq!(
            (metadata.name.as_deref(), metadata.uid.as_deref()),
            (Some("p"), Some("u"))
        );
        assert_eq!((metadata.generation, metadata.labels), (None, None));
    }
}
