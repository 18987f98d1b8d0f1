//! The extra strictness for keys that MCP itself reads.
//!
//! In: the keys of one object of the protocol (envelope, `params`, `_meta`, `result` …). Out:
//! whether two readers could take one of them for different members. Some JSON libraries match keys
//! without regard to case, by Unicode simple case folding (CVE-2026-27896), and some cut a key at a
//! NUL; the server behind the gateway may use one. It must not be used on a tool's arguments, where
//! case variants are the server's business (the policy engine compares those with the tool's
//! schema).

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
    "message",
    "messages",
    "mode",
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
    "toolChoice",
    "tools",
    "total",
    "uri",
    "url",
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
    "portcullis.dev/approval",
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

/// Keys of a content block, of a resource's contents, and of a message of a prompt.
pub const BLOCK: &[&str] = &[
    "_meta",
    "annotations",
    "blob",
    "content",
    "data",
    "description",
    "mimeType",
    "name",
    "resource",
    "role",
    "size",
    "text",
    "title",
    "type",
    "uri",
];

/// Up to this number of unknown keys are compared pairwise.
const FEW: usize = 16;

/// Whether a key is one of `known`, byte for byte.
#[inline]
pub fn is_known(key: &str, known: &[&str]) -> bool {
    known.iter().any(|name| {
        key.len() == name.len() && key.bytes().next() == name.bytes().next() && key == *name
    })
}

/// The first key that readers could disagree about, and why. The keys must not be repeated byte for
/// byte, which the reader sees to, and those of `known` must be ASCII and no variants of one
/// another.
pub fn suspect<'k>(
    keys: impl Iterator<Item = &'k str> + Clone,
    known: &[&str],
) -> Option<(&'k str, Suspicion)> {
    // Nearly every object has few keys besides the known ones. A known one can have no other
    // variant than an unknown one, which is found by itself.
    let mut few = [""; FEW];
    let mut count = 0;
    for key in keys.clone().filter(|key| !is_known(key, known)) {
        if has_control(key) {
            return Some((key, Suspicion::Control));
        }
        if is_variant(key, known) {
            return Some((key, Suspicion::Variant));
        }
        if let Some(place) = few.get_mut(count) {
            *place = key;
        }
        count += 1;
    }
    let twice = if let Some(few) = few.get(..count) {
        // Comparing a few keys is cheaper than folding each of them.
        (1..count)
            .find(|&at| few[..at].iter().any(|other| same_folded(few[at], other)))
            .map(|at| few[at])
    } else {
        let mut seen = HashSet::new();
        keys.into_iter().find(|key| !seen.insert(fold(key)))
    };
    twice.map(|key| (key, Suspicion::Twice))
}

fn has_control(key: &str) -> bool {
    let control = |byte: u8| byte < 0x20 || byte == 0x7f;
    // The control characters beyond ASCII are U+0080 to U+009F.
    key.bytes().any(control) || (!key.is_ascii() && key.chars().any(char::is_control))
}

fn is_variant(key: &str, known: &[&str]) -> bool {
    if key.is_ascii() {
        known.iter().any(|name| key.eq_ignore_ascii_case(name))
    } else {
        known.iter().any(|name| same_folded(key, name))
    }
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

/// A character's representative: equal for all that simple case folding makes equal. The lower case
/// of the upper case joins what folding joins (`ſ` and `s`, the Kelvin sign and `k`, the sigmas);
/// where upper case is a sequence (`ß`) the character stands for itself. It also joins `ı` and `İ`
/// to `i`, as Java's comparison does: stricter, never looser.
fn fold_char(character: char) -> char {
    if character.is_ascii() {
        return character.to_ascii_lowercase();
    }
    // The three pairs that folding joins although their upper case is a sequence (CaseFolding.txt,
    // status S).
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
    use proptest::prelude::*;

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

    /// [`suspect`] by its rules alone: folding every key.
    fn plainly(keys: &[String], known: &[&str]) -> Option<(String, Suspicion)> {
        if keys.iter().all(|key| known.contains(&key.as_str())) {
            return None;
        }
        for key in keys.iter().filter(|key| !known.contains(&key.as_str())) {
            if key.chars().any(char::is_control) {
                return Some((key.clone(), Suspicion::Control));
            }
            if known.iter().any(|name| fold(name) == fold(key)) {
                return Some((key.clone(), Suspicion::Variant));
            }
        }
        let mut seen = HashSet::new();
        let twice = keys.iter().find(|key| !seen.insert(fold(key)));
        twice.map(|key| (key.clone(), Suspicion::Twice))
    }

    proptest! {
        #[test]
        fn keys_are_suspected_as_the_plain_rules_have_it(
            keys in prop::collection::hash_set(prop_oneof![
                4 => "[a-z]{1,3}",
                2 => prop::sample::select(ENTRY).prop_map(String::from),
                1 => prop::sample::select(ENTRY).prop_map(str::to_uppercase),
                1 => "[a-dA-DéÉſS\u{212a}\u{80}\u{0}\u{7f}]{1,2}",
            ], 0..40),
            size in 0..40_usize,
        ) {
            let keys: Vec<String> = keys.into_iter().take(size).collect();
            let found = suspect(keys.iter().map(String::as_str), ENTRY);
            prop_assert_eq!(found.map(|(key, why)| (key.to_owned(), why)), plainly(&keys, ENTRY));
        }
    }

    #[test]
    fn lists_of_known_keys_are_ascii_and_have_no_variants_of_one_another() {
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
            BLOCK,
        ] {
            for (at, name) in known.iter().enumerate() {
                assert!(name.is_ascii());
                assert!(!known[..at].iter().any(|other| same_folded(name, other)));
            }
            assert_eq!(check(known, known), None);
        }
    }
}
