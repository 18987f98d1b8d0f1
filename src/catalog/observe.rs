//! The current state that the recommended rule for a promotion shows to approvers.
//!
//! In: the name of a tool that promotes. Out: the read that shows the current state. Must not do:
//! name a tool that does more than read; a test checks this.

use crate::api::policy::{ApprovalRule, Observe, OnToolError};

/// How the recommended rule asks about a tool; None where nothing shows what it changes.
pub(super) fn approval(tool: &str) -> Option<ApprovalRule> {
    let (reads, args, on_tool_error): (_, &[(&str, &str)], _) = match tool {
        // A new alias: the read fails, and that error is the state.
        "set_model_alias" => (
            "get_model_version_by_alias",
            &[("name", "args.name"), ("alias", "args.alias")],
            Some(OnToolError::Show),
        ),
        "transition_model_version_stage" => (
            "get_latest_versions",
            &[("name", "args.name"), ("stages", "[args.stage]")],
            None,
        ),
        "copy_model_version" => (
            "get_model_versions",
            &[("model_name", "args.dst_model_name")],
            None,
        ),
        _ => return None,
    };
    let owned = |(name, source): &(&str, &str)| ((*name).to_owned(), (*source).to_owned());
    Some(ApprovalRule {
        observe: Some(Observe {
            tool: reads.to_owned(),
            args: args.iter().map(owned).collect(),
            on_tool_error,
            ..Observe::default()
        }),
        ..ApprovalRule::default()
    })
}

#[cfg(test)]
mod tests {
    use crate::api::Risk;
    use crate::catalog::{Recommended, all, lookup};

    #[test]
    fn every_promotion_is_shown_with_the_current_state_by_a_tool_that_reads() {
        let approved = all()
            .iter()
            .filter(|entry| entry.recommended == Recommended::Approve);
        let mut count = 0;
        for entry in approved {
            let approval = entry.recommended.rule(entry.name).approval;
            let observe = approval
                .and_then(|approval| approval.observe)
                .expect(entry.name);
            let form = lookup(&observe.tool)
                .find(|form| form.server == entry.server)
                .expect(entry.name);
            assert_eq!(form.risk, Risk::Read, "{}", entry.name);
            for (argument, source) in &observe.args {
                assert!(form.properties.contains(&argument.as_str()), "{argument}");
                let read = source.trim_matches(['[', ']']).strip_prefix("args.");
                assert!(entry.properties.contains(&read.expect(source)), "{source}");
            }
            count += 1;
        }
        assert_eq!(count, 3);
    }
}
