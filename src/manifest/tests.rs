//! Files as people write them, and every mistake with its place.

use super::*;
use crate::api::{policy::Mode, server::Enforcement};
use proptest::prelude::*;

const POLICY: &str = "\
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicy
metadata:
  name: base
spec:
  targetRefs:
    - { group: portcullis.dev, kind: McpServer, name: mlflow }
  rules:
    - name: reads
      tools: { risks: [Read] }
      action: Allow
";

/// The findings about a text, as `line:column path: message`.
fn told(text: &str) -> Vec<String> {
    match parse("f.yaml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn policy_with(from: &str, to: &str) -> String {
    assert!(POLICY.contains(from), "{from}");
    POLICY.replace(from, to)
}

#[test]
fn documents_become_objects_in_their_order() {
    let text = format!(
        "# a comment\n---\n{POLICY}---\n---\napiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{ name: mlflow, namespace: ml }}\nspec: {{ upstream: {{ http: {{ url: \"http://a/mcp\" }} }} }}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: x }}\n"
    );
    let found = parse("f.yaml", &text).unwrap();
    let identities: Vec<_> = found.objects.iter().map(|o| o.object.identity()).collect();
    assert_eq!(
        identities,
        [
            ("McpPolicy", "default", "base"),
            ("McpServer", "ml", "mlflow")
        ]
    );
    assert_eq!(
        found
            .ignored
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["f.yaml:21:1: ignored apps/v1 Deployment"]
    );
    let Object::Policy(policy) = &found.objects[0].object else {
        panic!()
    };
    assert_eq!(
        (policy.spec.mode(), policy.spec.rules[0].name.as_str()),
        (Mode::Enforce, "reads")
    );
    let Object::Server(server) = &found.objects[1].object else {
        panic!()
    };
    assert_eq!(
        server.spec.enforcement, None,
        "defaults are not written into the spec"
    );
    assert_eq!(server.spec.enforcement(), Enforcement::Enforce);
}

#[test]
fn places_of_fields_are_known() {
    let found = parse("f.yaml", POLICY).unwrap();
    let located = &found.objects[0];
    assert_eq!(
        located.position("spec.rules[0].tools.risks"),
        Position {
            line: 10,
            column: 16
        }
    );
    assert_eq!(
        located.position("spec.rules[0].when"),
        Position { line: 9, column: 7 },
        "the nearest thing around"
    );
    assert_eq!(located.position("nowhere"), Position { line: 1, column: 1 });
}

#[test]
fn json_is_read_too() {
    let text = r#"{"apiVersion":"portcullis.dev/v1alpha1","kind":"McpPolicy","metadata":{"name":"a"},"spec":{"targetSelector":{}}}"#;
    assert_eq!(parse("f.json", text).unwrap().objects.len(), 1);
}

#[test]
fn secrets_are_decoded_and_never_shown() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: { name: keys }\ntype: Opaque\ndata: { a: aGVsbG8= , b: eA== }\nstringData: { b: wins }\n";
    let found = parse("f.yaml", text).unwrap();
    let Object::Secret(secret) = &found.objects[0].object else {
        panic!()
    };
    let expected = Secret {
        namespace: "default".to_owned(),
        name: "keys".to_owned(),
        data: [
            ("a".to_owned(), b"hello".to_vec()),
            ("b".to_owned(), b"wins".to_vec()),
        ]
        .into(),
    };
    assert_eq!(*secret, expected);
    assert!(!format!("{secret:?}").contains("104") && !format!("{secret:?}").contains("wins"));

    let bad = "apiVersion: v1\nkind: Secret\nmetadata: { name: keys }\ndata:\n  a: hunter2!\n";
    assert_eq!(
        told(bad),
        ["f.yaml:5:3: data.a: is not base64; encode it, or write the plain value under stringData"]
    );
}

#[test]
fn mistakes_are_told_with_their_place_and_what_to_do() {
    let cases = [
        (
            policy_with("risks: [Read]", "nmaes: [x]"),
            "f.yaml:10:16: spec.rules[0].tools.nmaes: unknown field `nmaes`; did you mean `names`?",
        ),
        (
            policy_with("  rules:", "  rulez: []\n  rules:"),
            "f.yaml:8:3: spec.rulez: unknown field `rulez`; did you mean `rules`?",
        ),
        (
            policy_with("spec:", "speck: {}\nspec:"),
            "f.yaml:5:1: speck: unknown field `speck`; did you mean `spec`?",
        ),
        (
            policy_with("  name: base", "  name: base\n  lables: {}"),
            "f.yaml:5:3: metadata.lables: unknown field `lables`; did you mean `labels`?",
        ),
        (
            policy_with("name: reads", "name: 7"),
            "f.yaml:9:13: spec.rules[0].name: `7` is a number and must be text; write \"7\" in quotes",
        ),
        (
            policy_with("action: Allow", "action: allow"),
            "f.yaml:11:15: spec.rules[0].action: `allow` is not one of its values; write Allow (the values are Allow, RequireApproval, Deny, Hide)",
        ),
        (
            policy_with("risks: [Read]", "risks: Read"),
            "f.yaml:10:23: spec.rules[0].tools.risks: `Read` is text and must be a list; write [Read]",
        ),
        (
            policy_with("risks: [Read]", "names: []"),
            "f.yaml:10:23: spec.rules[0].tools.names: the list is empty and selects nothing; write at least one entry, or [\"*\"] for all",
        ),
        (
            policy_with("risks: [Read]", "risks: [Read, Read]"),
            "f.yaml:10:30: spec.rules[0].tools.risks[1]: the value `Read` is there twice in this list; rename or remove one",
        ),
        (
            format!("{POLICY}    - {{ name: reads, tools: {{}}, action: Deny }}\n"),
            "f.yaml:12:7: spec.rules[1]: the name `reads` is there twice in this list; rename or remove one",
        ),
        (
            policy_with("      action: Allow\n", ""),
            "f.yaml:9:7: spec.rules[0]: `action` is missing (what happens to calls that match); write action: and one of Allow, RequireApproval, Deny or Hide",
        ),
        (
            policy_with("name: reads", "name: Reads!"),
            "f.yaml:9:13: spec.rules[0].name: `Reads!` is not a valid name: it may have lower-case letters, digits and `-`, and begins and ends with a letter or digit; write for example reads",
        ),
        (
            policy_with(
                "action: Allow",
                "action: Allow\n      limits: [{ counter: c, max: 0, window: 1m }]",
            ),
            "f.yaml:12:35: spec.rules[0].limits[0].max: 0 is too small; write at least 1",
        ),
        (
            policy_with(
                "action: Allow",
                "action: Allow\n      limits: [{ counter: c, max: 1, window: soon }]",
            ),
            "f.yaml:12:46: spec.rules[0].limits[0].window: `soon` is not a duration; write a number with a unit, such as 30s, 1m or 1h30m; the units are d, h, m, s and ms",
        ),
        (
            policy_with(
                "action: Allow",
                "action: Deny\n      limits: [{ counter: c, max: 1, window: 1m }]",
            ),
            "f.yaml:9:7: spec.rules[0]: limits go with Allow or RequireApproval; a call that is hidden or denied is not counted",
        ),
        (
            policy_with("kind: McpServer", "kind: Deployment"),
            "f.yaml:7:7: spec.targetRefs[0]: a policy targets servers: write group: portcullis.dev and kind: McpServer",
        ),
        (
            policy_with("name: base", "name: Base"),
            "f.yaml:4:9: metadata.name: `Base` is not a valid name: it may have lower-case letters, digits, `-` and `.`, and begins and ends with a letter or digit; write for example base",
        ),
        (
            policy_with("metadata:\n  name: base\n", ""),
            "f.yaml:1:1: `metadata` is missing; write metadata: { name: my-name, namespace: my-namespace }",
        ),
        (
            policy_with("  name: base", "  labels: {}"),
            "f.yaml:4:3: metadata: `name` is missing; write for example name: my-name",
        ),
        (
            policy_with("kind: McpPolicy\n", ""),
            "f.yaml:1:1: `kind` is missing; write for example kind: McpPolicy",
        ),
        (
            policy_with("kind: McpPolicy\n", "kind: MCPPolicy\n"),
            "f.yaml:2:7: kind: portcullis.dev/v1alpha1 has no kind `MCPPolicy`; write McpServer or McpPolicy",
        ),
        (
            policy_with("v1alpha1", "v1"),
            "f.yaml:1:13: apiVersion: `portcullis.dev/v1` is not a version that this program knows; write portcullis.dev/v1alpha1",
        ),
        (
            "- a\n".to_owned(),
            "f.yaml:1:1: this document is a list; write a manifest with apiVersion, kind, metadata and spec, or remove it",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(told(&text), [expected], "\n{text}");
    }
}

#[test]
fn all_mistakes_of_a_document_are_told_at_once() {
    let text =
        policy_with("risks: [Read]", "riskz: [Read]").replace("action: Allow", "action: allow");
    assert_eq!(told(&text).len(), 2);
}

#[test]
fn a_server_is_held_to_its_rules() {
    let server = |spec: &str| {
        format!(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{ name: a }}\nspec:\n{spec}"
        )
    };
    assert_eq!(
        told(&server("  upstream: {}\n")),
        [
            "f.yaml:5:3: spec.upstream: write exactly one of http (a server that is reached by URL) and stdio (a server that is run for you)"
        ]
    );
    assert_eq!(
        told(&server(
            "  upstream: { http: { url: \"http://a\" } }\n  gateway: { port: 9090 }\n"
        )),
        [
            "f.yaml:6:14: spec.gateway.port: port 9090 is the gateway's admin port; choose another one, such as 8080"
        ]
    );
    let env = "  upstream:\n    stdio:\n      image: i\n      command: [c]\n      env: [{ name: A, valu: b }]\n";
    assert_eq!(
        told(&server(env)),
        [
            "f.yaml:9:24: spec.upstream.stdio.env[0].valu: unknown field `valu`; did you mean `value`?"
        ]
    );
    let whole = "  upstream:\n    stdio:\n      image: i\n      command: [c]\n      resources: { limits: { cpu: 1, memory: 1Gi } }\n      volumes: [{ name: d, emptyDir: { sizeLimit: 1Gi } }]\n  gateway:\n    pod:\n      affinity: { podAntiAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [] } }\n      tolerations: [{ key: a, operator: Exists, effect: NoSchedule }]\n";
    assert_eq!(
        told(&server(whole)),
        [""; 0],
        "core types are taken as Kubernetes takes them"
    );
}

#[test]
fn broken_yaml_is_told_with_its_place() {
    let errors = parse("f.yaml", "a: b\n c: [\n").unwrap_err();
    assert_eq!((errors.len(), errors[0].at.line > 0), (1, true));
    assert!(
        errors[0].message.starts_with("this is not valid YAML: "),
        "{}",
        errors[0].message
    );

    let twice = policy_with("  name: base", "  name: base\n  name: other");
    let errors = parse("f.yaml", &twice).unwrap_err();
    assert_eq!(errors[0].at.line, 5, "{errors:?}");
}

#[test]
fn the_same_object_twice_is_an_error() {
    let text = format!("{POLICY}---\n{POLICY}");
    assert_eq!(
        told(&text),
        [
            "f.yaml:16:3: metadata.name: the McpPolicy default/base is already in f.yaml:1; remove one or rename it"
        ]
    );
    let other = format!(
        "{POLICY}---\n{}",
        policy_with("  name: base", "  name: base\n  namespace: other")
    );
    assert_eq!(told(&other), [""; 0]);
}

#[test]
fn aliases_cannot_blow_a_file_up() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let item = format!("*a{}", i - 1);
        bomb.push_str(&format!(
            "a{i}: &a{i} [{}]\n",
            [item.as_str(); 9].join(", ")
        ));
    }
    assert_eq!(parse("f.yaml", &bomb).unwrap_err().len(), 1);
    let deep = "[".repeat(100_000);
    assert_eq!(parse("f.yaml", &deep).unwrap_err().len(), 1);
    let long = "a".repeat(tree::MAX_BYTES + 1);
    assert!(told(&long)[0].contains("split it"));
    let anchors = POLICY.replace("{ risks: [Read] }", "&t { risks: [Read] }")
        + "    - { name: more, tools: *t, action: Deny }\n";
    assert_eq!(told(&anchors), [""; 0], "honest anchors work");
}

#[test]
fn directories_are_read_in_the_order_of_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("b.yaml", &policy_with("name: base", "name: b"));
    write("a.yml", &policy_with("name: base", "name: a"));
    write(".hidden.yaml", "[");
    write("README.md", "[");
    let found = load(&[dir.path().to_owned(), dir.path().join("a.yml")]).unwrap();
    let names: Vec<_> = found
        .objects
        .iter()
        .map(|o| o.object.identity().2.to_owned())
        .collect();
    assert_eq!(
        names,
        ["a", "b"],
        "and a file that is named twice is read once"
    );

    write("c.yaml", &policy_with("name: base", "name: a"));
    let errors = load(&[dir.path().to_owned()]).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].message.contains("is already in") && errors[0].file.ends_with("c.yaml"),
        "{errors:?}"
    );
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.yaml");
    let errors = load(&[missing.clone(), dir.path().to_owned()]).unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            format!(
                "{}: there is no such file or directory; correct the path",
                missing.display()
            ),
            format!(
                "{}: there is no *.yaml, *.yml or *.json in this directory; name another, or a file",
                dir.path().display()
            ),
        ]
    );
    std::fs::write(dir.path().join("x.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let errors = load(&[dir.path().to_owned()]).unwrap_err();
    assert!(errors[0].message.contains("UTF-8"), "{errors:?}");
}

#[test]
fn tests_and_approvals_beside_policies_are_passed_over() {
    for kind in ["McpApproval", "McpPolicyTest"] {
        let found = parse(
            "f.yaml",
            &format!("apiVersion: portcullis.dev/v1alpha1\nkind: {kind}\n"),
        )
        .unwrap();
        assert_eq!((found.objects.len(), found.ignored.len()), (0, 1), "{kind}");
    }
}

proptest! {
    #[test]
    fn any_text_gives_objects_or_errors_and_never_a_panic(text in "\\PC*") {
        let _ = parse("f.yaml", &text);
    }

    #[test]
    fn any_change_of_one_place_gives_objects_or_errors(at in 0..POLICY.len(), put in "[-\\[\\]{}:,&*!|>#%@`'\"? \nA-z0-9]{0,3}") {
        let mut text = POLICY.to_owned();
        text.replace_range(at..=at, &put);
        if let Err(errors) = parse("f.yaml", &text) {
            prop_assert!(errors.iter().all(|e| !e.message.is_empty() && e.at.line > 0));
        }
    }
}
