//! The CEL rules of the definitions, by an evaluator of our own language; cases.rs has the objects.

use super::cases::cases;
use super::*;
use kube::core::cel::Validator;

/// A rule with `optionalOldSelf` needs an API server: the evaluator used here has no optional
/// values.
const NEEDS_AN_API_SERVER: &str = "a new request carries no decisions; people add them afterwards";

/// Without the rules against nulls, which need `dyn`: that function is missing here too.
fn evaluated(kind: &str) -> Value {
    let mut schemas = schemas_of(api::definitions()).into_iter();
    without_optional_old_self(schemas.find(|(k, _)| k == kind).unwrap().1)
}

fn without_optional_old_self(mut schema: Value) -> Value {
    if let Some(rules) = schema
        .pointer_mut("/properties/spec/x-kubernetes-validations")
        .and_then(Value::as_array_mut)
    {
        rules.retain(|rule| rule["optionalOldSelf"] != true);
    }
    schema
}

#[test]
fn each_rule_refuses_a_bad_object_with_its_sentence_and_accepts_a_good_one() {
    let validator = Validator::new();
    for case in cases() {
        let schema = evaluated(case.kind);
        let told: Vec<String> =
            match validator.validate(&schema, &case.refused, case.before.as_ref()) {
                Ok(()) => Vec::new(),
                Err(errors) => errors.into_vec().into_iter().map(|e| e.message).collect(),
            };
        assert_eq!(told.len(), 1, "{}: {told:?}", case.sentence);
        assert!(
            told[0].contains(case.sentence),
            "{}: {told:?}",
            case.sentence
        );
        if let Err(errors) = validator.validate(&schema, &case.accepted, case.before.as_ref()) {
            panic!("{}: the good object was refused: {errors}", case.sentence);
        }
    }
}

#[test]
fn no_rule_goes_untested() {
    let mut untested = BTreeSet::new();
    for_every_node(|_, node, _| {
        for rule in node["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let message = rule["message"].as_str().unwrap();
            if message.ends_with(NULL) {
                continue;
            }
            if !cases().iter().any(|case| message.contains(case.sentence)) {
                untested.insert(message.to_owned());
            }
        }
    });
    assert_eq!(untested, [NEEDS_AN_API_SERVER.to_owned()].into());
}

#[test]
fn the_rule_against_deciding_at_creation_sits_on_the_required_spec() {
    let schema = schema("McpApproval");
    assert_eq!(schema["required"], json!(["spec"]));
    let rules = schema["properties"]["spec"]["x-kubernetes-validations"]
        .as_array()
        .unwrap();
    let rule = rules
        .iter()
        .find(|rule| rule["optionalOldSelf"] == true)
        .unwrap();
    assert_eq!(rule["rule"], "oldSelf.hasValue() || !has(self.decisions)");
}
