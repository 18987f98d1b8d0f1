//! What `portcullis explain` prints for people.
//!
//! In: explanations and lines of the audit log. Out: text. Must not do: hand a terminal a character
//! that it would act on: names and arguments are the agent's, reasons and notes are other people's.

use super::Explanation;
use super::audit_lines::{AuditLine, FoundLine};
use super::report::{Again, Report, Rules};
use crate::cli::output::{columns, visible, visible_lines};

/// This many bytes of arguments are shown; `-o yaml` has all of them.
const MAX_ARGUMENTS_SHOWN: usize = 2_000;

/// A decision with its rules.
pub(super) fn explanation(explanation: &Explanation) -> String {
    let mut text = format!(
        "{:?}  {} for {} at {}\n  by policy {}, rule {}",
        explanation.decision,
        visible(&explanation.tool),
        explanation.caller,
        explanation.server,
        explanation.policy,
        explanation.rule
    );
    if let Some(reason) = &explanation.reason {
        text.push_str(&format!(": {}", visible(reason)));
    }
    let class = if explanation.risk.is_empty() {
        "no such tool".to_owned()
    } else {
        format!("{} {}", explanation.risk, explanation.severity)
    };
    let listed = if explanation.visible {
        "in the caller's list"
    } else {
        "not in the caller's list"
    };
    text.push_str(&format!("\n  tool: {}, {listed}\n", class.trim_end()));
    if let Some(withheld) = &explanation.withheld {
        text.push_str(&format!("  hidden from all callers: {withheld}\n"));
    }
    for limit in &explanation.limits {
        text.push_str(&format!("  limit: {limit}\n"));
    }
    if let Some(observes) = &explanation.observes {
        text.push_str(&format!("  shows who decides: {}\n", visible(observes)));
    }
    if let Some(shadow) = &explanation.shadow {
        text.push_str(&format!("  in audit: {shadow}\n"));
    }
    text.push('\n');
    let rows: Vec<Vec<String>> = explanation
        .trace
        .iter()
        .map(|step| {
            let mode = if step.audit { " (audit)" } else { "" };
            vec![
                format!("{}{mode}", step.policy),
                step.rule.clone(),
                format!("{:?}", step.action),
                step.detail.clone(),
            ]
        })
        .collect();
    text.push_str(&columns(&["Policy", "Rule", "Action", "Result"], &rows));
    if rows.is_empty() {
        text.push_str("No rule selects this tool.\n");
    }
    text
}

/// A decision of the audit log.
pub(super) fn report(report: &Report) -> String {
    let Report {
        decision_id,
        lines,
        approval,
        rules,
        decided_again,
        notes,
    } = report;
    let mut text = format!("Decision {decision_id}\n");
    for found in lines {
        text.push_str(&format!("\n{}", line(found)));
    }
    if !approval.is_empty() {
        text.push_str("\nFurther lines about the approval\n");
        for found in approval {
            text.push_str(&line(found));
        }
    }
    if let Some(found) = rules {
        text.push_str(&format!("\nThe rules\n{}", these_rules(found)));
    }
    if let Some(found) = decided_again {
        text.push_str(&format!("\nDecided again\n{}", again(found)));
    }
    for note in notes {
        text.push_str(&format!("\nnote: {}\n", visible(note)));
    }
    text
}

fn line(found: &FoundLine) -> String {
    let line = &found.line;
    let behind = match found.behind.as_str() {
        "" => String::new(),
        behind => format!(" (behind `{}`)", visible(behind)),
    };
    let place = format!("{}  {}{behind}\n", visible(&line.time), found.place());
    let said = match line.event.as_str() {
        "decision" => decision(line),
        "end" => line.upstream.as_ref().map_or_else(String::new, |end| {
            format!(
                "  the server's answer: {} after {} ms\n",
                visible(&end.status),
                end.latency_ms
            )
        }),
        "approval" => step(line),
        "authentication" => login(line),
        event => format!("  an event `{}`, of a newer release\n", visible(event)),
    };
    format!("{place}{said}")
}

fn shown(text: &Option<String>) -> String {
    visible(text.as_deref().unwrap_or("(not said)"))
}

fn decision(line: &AuditLine) -> String {
    let outcome = line.outcome.as_deref().unwrap_or_default();
    let what = match outcome {
        "allowed" => "allowed: the call was forwarded",
        "audited" => "audited: the call was forwarded, although a policy in Audit refuses it",
        "hidden" => "hidden: answered as if there were no such name",
        "denied" => "denied",
        "limited" => "limited: a limit was reached",
        "unapproved" => "unapproved: no approval, so the call was not forwarded",
        "badArguments" => "bad arguments: they are not as the tool's schema says",
        "unknown" => "unknown: the server has no such name",
        "unavailable" => {
            "unavailable: the gateway could not find out what it needs for the decision"
        }
        "unrecorded" => {
            "unrecorded: the audit log could not be written, so the call was not forwarded"
        }
        other => other,
    };
    let mut text = format!(
        "  {}\n  {} {} by {} at {}\n",
        visible(what),
        shown(&line.method),
        line.tool.as_deref().map_or_else(String::new, visible),
        shown(&line.grant),
        visible(&line.server),
    );
    if line.policy.is_some() || line.rule.is_some() {
        let mode = match line.enforced {
            Some(false) => " (recorded, not enforced)",
            _ => "",
        };
        text.push_str(&format!(
            "  decided by policy {}, rule {}{mode}\n",
            shown(&line.policy),
            shown(&line.rule)
        ));
    }
    if let Some(reason) = &line.reason {
        text.push_str(&format!("  reason: {}\n", visible(reason)));
    }
    if !line.near.is_empty() {
        text.push_str(&format!(
            "  would let it pass if their condition held: {}\n",
            visible(&line.near.join(", "))
        ));
    }
    if let Some(after) = line.retry_after_ms {
        text.push_str(&format!(
            "  the limit admits the call again after {after} ms\n"
        ));
    }
    if line.approval.is_some() || line.approval_state.is_some() {
        text.push_str(&format!(
            "  approval: {}{}\n",
            line.approval
                .as_deref()
                .map_or_else(|| "(none)".to_owned(), visible),
            line.approval_state
                .as_deref()
                .map_or_else(String::new, |state| format!(", {}", visible(state)))
        ));
    }
    text.push_str(&format!("  arguments: {}\n", arguments(line)));
    if let Some(session) = &line.session {
        text.push_str(&format!("  session: {}\n", visible(session)));
    }
    if let Some(trace) = &line.trace_id {
        text.push_str(&format!("  trace: {}\n", visible(trace)));
    }
    text.push_str(&format!("  revision: {}\n", shown(&line.revision)));
    text
}

fn arguments(line: &AuditLine) -> String {
    let Some(raw) = &line.arguments else {
        return "not in the log".to_owned();
    };
    let mut said = match serde_json::from_str::<Vec<String>>(raw.get()) {
        Ok(names) if names.is_empty() => "none".to_owned(),
        Ok(names) => format!(
            "{} (only their names are in the log)",
            visible(&names.join(", "))
        ),
        Err(_) => {
            let whole = visible(raw.get());
            match whole.len() > MAX_ARGUMENTS_SHOWN {
                true => format!(
                    "{}… (-o yaml shows all of it)",
                    crate::protocol::text::cut(&whole, MAX_ARGUMENTS_SHOWN)
                ),
                false => whole,
            }
        }
    };
    if let Some(omitted) = line.arguments_omitted {
        said.push_str(&format!(", and {omitted} further names"));
    }
    said
}

fn step(line: &AuditLine) -> String {
    let by = line
        .by
        .as_deref()
        .map_or_else(String::new, |by| format!(" by {}", visible(by)));
    let reason = line
        .reason
        .as_deref()
        .map_or_else(String::new, |reason| format!(": {}", visible(reason)));
    let approvers = match line.approvers.is_empty() {
        true => String::new(),
        false => format!(", approved by {}", visible(&line.approvers.join(", "))),
    };
    format!(
        "  approval {} {}{by}{approvers}{reason} (decision {})\n",
        shown(&line.approval),
        shown(&line.step),
        visible(&line.decision_id)
    )
}

fn login(line: &AuditLine) -> String {
    let from = match &line.address {
        Some(address) => format!("from {}", visible(address)),
        None => "from other addresses".to_owned(),
    };
    match (line.suppressed, line.window_seconds) {
        (Some(count), Some(seconds)) => format!(
            "  {count} further failed logins within {seconds} s {from}, without a line of their own\n"
        ),
        _ => format!(
            "  a failed login {from}: answered {}, reason {}\n",
            line.status.unwrap_or_default(),
            shown(&line.reason)
        ),
    }
}

fn these_rules(rules: &Rules) -> String {
    let mut text = match rules.same {
        true => "  The files have the revision of the line: these rules decided.\n".to_owned(),
        false => format!(
            "  The files have another revision ({}): other rules than these may have decided.\n",
            visible(&rules.revision_of_files)
        ),
    };
    for rule in &rules.texts {
        text.push_str(&format!(
            "  policy {}, rule {}, in {}:{}\n",
            visible(&rule.policy),
            visible(&rule.rule),
            visible(&rule.file),
            rule.line
        ));
        for line in visible_lines(&rule.text).lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

fn again(again: &Again) -> String {
    let as_logged = match again.as_logged {
        true => "As the line says.",
        false => "Not what the line says.",
    };
    let decided = match &again.explanation {
        Some(found) => explanation(found),
        None => format!(
            "{:?} by policy {}, rule {}{}\n",
            again.decision,
            visible(&again.policy),
            visible(&again.rule),
            again
                .reason
                .as_deref()
                .map_or_else(String::new, |reason| format!(": {}", visible(reason)))
        ),
    };
    let indented: String = decided.lines().map(|line| format!("  {line}\n")).collect();
    format!("  {as_logged}\n{indented}")
}
