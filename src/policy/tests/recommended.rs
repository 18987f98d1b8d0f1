//! The recommended policy against the tools of both real servers, as their `tools/list` gave them.

use super::*;
use crate::json;

/// The policy that the documentation recommends.
const RECOMMENDED: &str = "
defaultAction: Hide
rules:
- {name: reads, tools: {risks: [Read]}, action: Allow}
- name: tags
  tools: {names: ['set_*_tag'], risks: [Write]}
  action: Allow
  limits: [{counter: tags, max: 30, window: 1m}]
- name: writes
  tools: {risks: [Write], exceptNames: ['set_*_tag']}
  action: Allow
  limits: [{counter: writes, max: 30, window: 1m}]
- {name: promotions, tools: {names: [set_model_alias, transition_model_version_stage, copy_model_version]}, action: RequireApproval}
- {name: deletions, tools: {risks: [Destructive]}, action: Hide}
";

fn fixture(file: &str) -> Vec<Definition> {
    let path = format!("{}/tests/fixtures/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(path).unwrap();
    let value = json::parse(&text).unwrap();
    value
        .get("tools")
        .and_then(json::Value::as_array)
        .unwrap()
        .iter()
        .map(|tool| Definition::parse(json::canonical(tool).as_bytes()).unwrap())
        .collect()
}

fn counts(file: &str) -> (Bound, [usize; 6]) {
    let program = Arc::new(compile(&bundle("", &[("mlflow-default", RECOMMENDED)])).unwrap());
    let bound = Bound::new(&program, &fixture(file));
    let decisions: Vec<_> = bound
        .tools()
        .iter()
        .map(|tool| call(&bound, &tool.name, "{}"))
        .collect();
    let count = |test: &dyn Fn(&Decision) -> bool| decisions.iter().filter(|d| test(d)).count();
    let limited = |d: &Decision| !d.charges.is_empty();
    let figures = [
        bound.counts().discovered,
        bound.counts().visible,
        count(&|d| d.outcome == Outcome::Hide),
        count(&|d| d.outcome == Outcome::Allow && !limited(d)),
        count(&limited),
        count(&|d| d.outcome == Outcome::RequireApproval),
    ];
    assert_eq!(
        (bound.counts().unclassified, bound.counts().drifted),
        (0, 0)
    );
    (bound, figures)
}

#[test]
fn of_the_40_tools_of_mlflow_mcp_35_are_visible_27_free_8_limited_and_3_of_those_held() {
    let (bound, figures) = counts("mlflow-mcp-0.4.1.tools.json");
    assert_eq!(figures, [40, 35, 5, 27, 8, 3]);
    for (tool, counter) in [
        ("set_experiment_tag", "tags"),
        ("set_model_alias", "writes"),
        ("register_model", "writes"),
    ] {
        let decision = call(&bound, tool, "{}");
        assert_eq!(
            decision
                .charges
                .iter()
                .map(|c| &*c.counter.name)
                .collect::<Vec<_>>(),
            [counter]
        );
    }
    assert_eq!(
        result(&call(&bound, "delete_run", "{}")),
        (Outcome::Hide, "deletions", None)
    );
}

#[test]
fn of_the_26_tools_of_the_official_server_21_are_visible_and_13_limited() {
    let (bound, figures) = counts("mlflow-3.x.tools.json");
    assert_eq!(figures, [26, 21, 5, 8, 13, 0]);
    assert_eq!(
        result(&call(&bound, "evaluate_traces", "{}")),
        (Outcome::Hide, "(default)", None)
    );
}

#[test]
fn of_the_45_tools_that_the_official_server_has_at_most_30_are_visible_and_18_limited() {
    let (bound, figures) = counts("mlflow-3.x-all.tools.json");
    assert_eq!(figures, [45, 30, 15, 12, 18, 0]);
    for tool in ["serve_model", "predict_with_model"] {
        assert_eq!(
            result(&call(&bound, tool, "{}")),
            (Outcome::Hide, "(default)", None)
        );
    }
}

#[test]
fn every_schema_of_both_servers_can_be_checked() {
    let reads =
        "rules: [{name: all, tools: {names: ['*']}, when: size(args) < 100, action: Allow}]";
    let program = Arc::new(compile(&bundle("", &[("p", reads)])).unwrap());
    for file in ["mlflow-mcp-0.4.1.tools.json", "mlflow-3.x-all.tools.json"] {
        let bound = Bound::new(&program, &fixture(file));
        let withheld: Vec<_> = bound
            .tools()
            .iter()
            .filter(|tool| tool.withheld.is_some())
            .map(|tool| &tool.name)
            .collect();
        assert!(withheld.is_empty(), "{withheld:?}");
    }
}
