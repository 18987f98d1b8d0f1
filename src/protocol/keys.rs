//! The extra strictness for keys that MCP itself reads.
//!
//! In: the keys of one object of the protocol (envelope, `params`, `_meta`, `result` …). Out: whether two readers could
//! take one of them for different members. Some JSON libraries match keys without regard to case, by Unicode simple
//! case folding (CVE-2026-27896), and some cut a key at a NUL; the server behind the gateway may use one. It must not be
//! used on a tool's arguments, where case variants are the server's business (the policy engine compares those with the
//! tool's schema).

use std::collections::HashSet;

use crate::json::Member;

/// Keys of a message.
pub const ENVELOPE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];

/// Keys of `params`, of every method.
pub const PARAMS: &[&str] = &[
    "_meta",
    "argument",
    "arguments",
    "capabilities",
    "clientInfo",
    "context",
    "cursor",
    "includeContext",
    "inputResponses",
    "level",
    "maxTokens",
    "messages",
    "name",
    "notifications",
    "progress",
    "progressToken",
    "protocolVersion",
    "reason",
    "ref",
    "requestId",
    "requestState",
    "requestedSchema",
    "result",
    "task",
    "taskId",
    "tools",
    "uri",
];

/// Keys of `_meta`.
pub const META: &[&str] = &[
    "baggage",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
    "io.modelcontextprotocol/model-immediate-response",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/related-task",
    "io.modelcontextprotocol/serverInfo",
    "io.modelcontextprotocol/subscriptionId",
    "portcullis.dev/retryAfterMs",
    "progressToken",
    "traceparent",
    "tracestate",
];

/// Keys of `result`, of every method.
pub const RESULT: &[&str] = &[
    "_meta",
    "cacheScope",
    "capabilities",
    "completion",
    "content",
    "contents",
    "inputRequests",
    "instructions",
    "isError",
    "messages",
    "nextCursor",
    "prompts",
    "protocolVersion",
    "requestState",
    "resourceTemplates",
    "resources",
    "result",
    "resultType",
    "serverInfo",
    "structuredContent",
    "supportedVersions",
    "task",
    "taskId",
    "tasks",
    "tools",
    "ttlMs",
];

/// Keys of `error`.
pub const ERROR: &[&str] = &["code", "message", "data"];

/// Keys of `params.ref` of `completion/complete`.
pub const REF: &[&str] = &["type", "name", "uri", "title"];

/// Keys of the client's and the server's `capabilities`.
pub const CAPABILITIES: &[&str] = &[
    "completions",
    "elicitation",
    "experimental",
    "extensions",
    "logging",
    "prompts",
    "resources",
    "roots",
    "sampling",
    "tasks",
    "tools",
];

/// Keys of `params.notifications` of `subscriptions/listen`.
pub const LISTEN: &[&str] = &[
    "promptsListChanged",
    "resourceSubscriptions",
    "resourcesListChanged",
    "taskIds",
    "toolsListChanged",
];

/// Keys of one entry of a list of tools, prompts, resources or templates.
pub const ENTRY: &[&str] = &[
    "_meta",
    "name",
    "uri",
    "uriTemplate",
    "inputSchema",
    "outputSchema",
    "annotations",
];

/// Up to so many keys are compared one with the other.
const FEW: usize = 16;

/// The first key that readers could disagree about, and why.
pub fn suspect<'k>(
    keys: impl Iterator<Item = &'k str> + Clone,
    known: &[&str],
) -> Option<(&'k str, Suspicion)> {
    // Nearly every object has only known keys, and the reader has refused duplicates.
    let unknown = |key: &&str| !known.contains(key);
    if !keys.clone().any(|key| unknown(&key)) {
        return None;
    }
    for key in keys.clone().filter(unknown) {
        if key.chars().any(char::is_control) {
            return Some((key, Suspicion::Control));
        }
        if known.iter().any(|name| same_folded(key, name)) {
            return Some((key, Suspicion::Variant));
        }
    }
    let twice = if keys.clone().nth(FEW).is_none() {
        // Nearly every entry of a list comes here; comparing a few keys is cheaper than folding each of them.
        let earlier = |at: usize| keys.clone().take(at);
        let mut numbered = keys.clone().enumerate();
        numbered
            .find(|(at, key)| earlier(*at).any(|other| same_folded(key, other)))
            .map(|(_, key)| key)
    } else {
        let mut seen = HashSet::new();
        keys.clone().find(|key| !seen.insert(fold(key)))
    };
    twice.map(|key| (key, Suspicion::Twice))
}

/// [`suspect`] over members.
pub fn suspect_member<'m>(
    members: &'m [Member<'_>],
    known: &[&str],
) -> Option<(&'m str, Suspicion)> {
    suspect(members.iter().map(|member| member.key.as_ref()), known)
}

/// Why a key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// It has a control character.
    Control,
    /// It differs from a key of the protocol only in case.
    Variant,
    /// It differs from another key of the same object only in case.
    Twice,
}

/// Whether two keys are equal under Unicode simple case folding.
pub fn same_folded(left: &str, right: &str) -> bool {
    if left.is_ascii() && right.is_ascii() {
        return left.eq_ignore_ascii_case(right);
    }
    left.chars().map(fold_char).eq(right.chars().map(fold_char))
}

/// The key with every character folded.
pub fn fold(key: &str) -> String {
    if key.is_ascii() {
        key.to_ascii_lowercase()
    } else {
        key.chars().map(fold_char).collect()
    }
}

/// A character's representative: equal for all that simple case folding makes equal. The lower case of the upper case
/// joins what folding joins (`ſ` and `s`, the Kelvin sign and `k`, the sigmas); where upper case is a sequence (`ß`) the
/// character stands for itself. It also joins `ı` and `İ` to `i`, as Java's comparison does: stricter, never looser.
fn fold_char(character: char) -> char {
    if character.is_ascii() {
        return character.to_ascii_lowercase();
    }
    // The three pairs that folding joins although their upper case is a sequence (CaseFolding.txt, status S).
    let character = match character {
        '\u{1fd3}' => '\u{390}',
        '\u{1fe3}' => '\u{3b0}',
        '\u{fb05}' => '\u{fb06}',
        other => other,
    };
    let mut upper = character.to_uppercase();
    let single = match (upper.next(), upper.next()) {
        (Some(only), None) => only,
        _ => character,
    };
    single.to_lowercase().next().unwrap_or(single)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&str], known: &[&str]) -> Option<(String, Suspicion)> {
        suspect(keys.iter().copied(), known).map(|(key, why)| (key.to_owned(), why))
    }

    #[test]
    fn variants_of_known_keys_are_suspect_and_the_keys_themselves_are_not() {
        assert_eq!(check(ENVELOPE, ENVELOPE), None);
        assert_eq!(
            check(&["Method"], ENVELOPE),
            Some(("Method".into(), Suspicion::Variant))
        );
        assert_eq!(
            check(&["paramſ"], ENVELOPE),
            Some(("paramſ".into(), Suspicion::Variant))
        );
        assert_eq!(
            check(&["progressTo\u{212a}en"], META),
            Some(("progressTo\u{212a}en".into(), Suspicion::Variant))
        );
        assert_eq!(
            check(&["method\0"], ENVELOPE),
            Some(("method\0".into(), Suspicion::Control))
        );
        assert_eq!(
            check(&["x\u{85}"], ENVELOPE),
            Some(("x\u{85}".into(), Suspicion::Control))
        );
        assert_eq!(
            check(&["x", "é", "É"], ENVELOPE),
            Some(("É".into(), Suspicion::Twice))
        );
        assert_eq!(check(&["methods", "meth", "métHod"], ENVELOPE), None);
    }

    #[test]
    fn folding_joins_whatever_the_simple_case_folding_of_unicode_joins() {
        let cased: Vec<char> = ('\u{80}'..=char::MAX)
            .filter(|c| !c.to_lowercase().eq([*c]) || !c.to_uppercase().eq([*c]))
            .chain('A'..='z')
            .collect();
        let all: String = cased.iter().collect();
        for &character in &cased {
            let pattern =
                regex::Regex::new(&format!("(?i){}", regex::escape(&character.to_string())))
                    .unwrap();
            for found in pattern.find_iter(&all) {
                assert_eq!(
                    fold(found.as_str()),
                    fold(&character.to_string()),
                    "{character:?} {:?}",
                    found.as_str()
                );
            }
        }
    }

    #[test]
    fn lists_of_known_keys_have_no_variants_of_one_another() {
        for known in [
            ENVELOPE,
            PARAMS,
            META,
            RESULT,
            ERROR,
            REF,
            CAPABILITIES,
            LISTEN,
            ENTRY,
        ] {
            assert_eq!(check(known, known), None);
        }
    }
}
