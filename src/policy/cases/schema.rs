//! The schema of documents of cases.
//!
//! Out: a structural schema, with which mistakes are found with their places before a document is
//! decoded. Must not do: differ from the types; a test decodes a document that has every field.

use serde_json::{Value, json};

/// The schema of an McpPolicyTest.
pub fn schema() -> Value {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": text });
    let any = json!({ "type": "object" });
    let verdict = json!({
        "type": "string",
        "enum": ["Allow", "RequireApproval", "Deny", "Hide", "Unknown", "BadArguments", "Limited"]
    });
    json!({
        "type": "object", "required": ["cases"],
        "properties": {
            "apiVersion": text, "kind": text, "metadata": any, "server": text, "listing": text, "tools": texts,
            "cases": {
                "type": "array", "description": "Calls, each with its expected decision.",
                "items": {
                    "type": "object", "required": ["expect"],
                    "properties": {
                        "name": text, "call": text, "prompt": text, "resource": text, "args": any, "caller": text,
                        "groups": texts, "claims": any, "session": text,
                        "now": { "type": "string", "format": "date-time" },
                        "times": { "type": "integer", "minimum": 1, "maximum": 100_000 },
                        "expect": {
                            "type": "object", "description": "What must become of the call.",
                            "properties": {
                                "decision": verdict, "rule": text, "policy": text, "visible": { "type": "boolean" },
                                "shadow": verdict
                            }
                        }
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Case, Expect, PolicyTest, Verdict};
    use super::schema;

    /// The properties of the schema are the fields of the types.
    #[test]
    fn the_schema_has_every_field_of_a_case() {
        let whole = PolicyTest {
            api_version: "v".to_owned(),
            kind: "k".to_owned(),
            metadata: Some(serde_json::json!({})),
            server: Some("s".to_owned()),
            listing: Some("l".to_owned()),
            tools: vec!["t".to_owned()],
            cases: vec![Case {
                name: "n".to_owned(),
                call: Some("c".to_owned()),
                prompt: Some("p".to_owned()),
                resource: Some("r".to_owned()),
                args: serde_json::Map::from_iter([("a".to_owned(), 1.into())]),
                caller: Some("c".to_owned()),
                groups: vec!["g".to_owned()],
                claims: serde_json::Map::from_iter([("a".to_owned(), 1.into())]),
                session: "s".to_owned(),
                now: Some("n".to_owned()),
                times: Some(1),
                expect: Expect {
                    decision: Some(Verdict::Allow),
                    rule: Some("r".to_owned()),
                    policy: Some("p".to_owned()),
                    visible: Some(true),
                    shadow: Some(Verdict::Deny),
                },
            }],
        };
        let written = serde_json::to_value(whole).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        let known = schema();
        let case = &known["properties"]["cases"]["items"];
        assert_eq!(keys(&known["properties"]), keys(&written));
        assert_eq!(keys(&case["properties"]), keys(&written["cases"][0]));
        assert_eq!(
            keys(&case["properties"]["expect"]["properties"]),
            keys(&written["cases"][0]["expect"])
        );
        for verdict in case["properties"]["expect"]["properties"]["decision"]["enum"]
            .as_array()
            .unwrap()
        {
            serde_json::from_value::<Verdict>(verdict.clone()).unwrap();
        }
    }
}
