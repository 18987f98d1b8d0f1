//! Every method of the supported versions and what policy it needs.
//!
//! In: a method name. Out: the side that may send it, whether it is a request or a notification, in
//! which versions it exists, and the decision that has to be made before it passes. A name that is
//! not in the table is refused with -32601; it must not be possible to forward a method without a
//! row in it. Source: `schema/*/schema.ts` of the four versions, and SEP-2663 for the tasks
//! extension of 2026-07-28.

use super::version::Version;
use super::version::Version::{V2025_03_26, V2025_06_18, V2025_11_25, V2026_07_28};

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    ToServer,
    ToClient,
    Both,
}

/// Whether the sender waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    Request,
    Notification,
}

/// A feature of the client that an upstream may ask for, as `clientFeatures` of the server's spec
/// allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    Sampling,
    Elicitation,
    Roots,
}

/// What must be decided or rewritten before a message of this method passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// Nothing: it names no tool, prompt or resource.
    Nothing,
    /// Version and capabilities are rewritten both ways, and a session id is minted.
    Handshake,
    /// The answer is about the server as a whole (2026-07-28).
    Discover,
    /// The answer is filtered.
    List,
    /// A decision on the tool and its arguments.
    ToolCall,
    /// A decision on the prompt in `params.name`.
    Prompt,
    /// A decision on the resource in `params.uri`.
    Resource,
    /// A decision on the prompt or resource template in `params.ref`.
    Completion,
    /// `params.taskId` is a sealed value that must open.
    Task,
    /// `params.requestId` may be a sealed value.
    Cancel,
    /// `params.notifications` names resources and tasks (2026-07-28).
    Listen,
    /// The server's spec says whether the upstream may ask the client for it.
    Feature(Feature),
    /// Never forwarded.
    Refused,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    pub name: &'static str,
    pub form: Form,
    pub direction: Direction,
    pub need: Need,
    /// The versions that have it, both ends included.
    pub since: Version,
    pub until: Version,
    /// The members of `params` that a server gets of a client's message, beside `_meta`.
    pub params: &'static [&'static str],
}

/// A row whose messages a client may send without a decision on what they name. Only
/// [`Method::undecided`] gives one out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecided(&'static Method);

impl Undecided {
    /// The row.
    pub fn row(self) -> &'static Method {
        self.0
    }
}

impl Method {
    /// The row as one that needs no decision: it names nothing, its answer is filtered, or it
    /// belongs to a feature of the client that the server's spec allows.
    pub fn undecided(&'static self, allows: impl FnOnce(Feature) -> bool) -> Option<Undecided> {
        match self.need {
            Need::Nothing | Need::List | Need::Handshake => Some(Undecided(self)),
            Need::Feature(feature) if allows(feature) => Some(Undecided(self)),
            Need::Feature(_)
            | Need::Discover
            | Need::ToolCall
            | Need::Prompt
            | Need::Resource
            | Need::Completion
            | Need::Task
            | Need::Cancel
            | Need::Listen
            | Need::Refused => None,
        }
    }

    /// Whether that version has the method.
    pub fn in_version(&self, version: Version) -> bool {
        self.since <= version && version <= self.until
    }

    /// Whether a client may send it.
    pub fn to_server(&self) -> bool {
        self.direction != Direction::ToClient
    }

    /// Whether an upstream may send it.
    pub fn to_client(&self) -> bool {
        self.direction != Direction::ToServer
    }
}

/// The row of that exact name.
pub fn lookup(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

/// Whether the name is one of a notification. All versions name them so, and nothing else.
pub fn is_notification(name: &str) -> bool {
    name.starts_with("notifications/")
}

const fn row(
    name: &'static str,
    form: Form,
    direction: Direction,
    need: Need,
    (since, until): (Version, Version),
    params: &'static [&'static str],
) -> Method {
    Method {
        name,
        form,
        direction,
        need,
        since,
        until,
        params,
    }
}

use Direction::{Both, ToClient, ToServer};
use Form::{Notification, Request};

const ALWAYS: (Version, Version) = (V2025_03_26, V2026_07_28);
const SESSIONS: (Version, Version) = (V2025_03_26, V2025_11_25);
const STATELESS: (Version, Version) = (V2026_07_28, V2026_07_28);

/// The table, the most frequent first.
///
/// The tasks of 2025-11-25 also exist from server to client, for sampling and elicitation; those
/// are not forwarded, and the client's capability for them must be taken out of `initialize`.
/// `sampling/createMessage`, `elicitation/create` and `roots/list` are not messages in 2026-07-28:
/// they only occur inside `input_required` results.
#[rustfmt::skip] // One row a line reads as the table that it is.
pub const METHODS: &[Method] = &[
    row("tools/call", Request, ToServer, Need::ToolCall, ALWAYS, &["name", "arguments"]),
    row("tools/list", Request, ToServer, Need::List, ALWAYS, &["cursor"]),
    row("notifications/progress", Notification, Both, Need::Nothing, ALWAYS, &["progressToken", "progress", "total", "message"]),
    row("notifications/message", Notification, ToClient, Need::Nothing, ALWAYS, &[]),
    row("initialize", Request, ToServer, Need::Handshake, SESSIONS, &["protocolVersion", "capabilities", "clientInfo"]),
    row("notifications/initialized", Notification, ToServer, Need::Nothing, SESSIONS, &[]),
    row("ping", Request, Both, Need::Nothing, SESSIONS, &[]),
    row("notifications/cancelled", Notification, Both, Need::Cancel, ALWAYS, &["requestId", "reason"]),
    row("prompts/list", Request, ToServer, Need::List, ALWAYS, &["cursor"]),
    row("prompts/get", Request, ToServer, Need::Prompt, ALWAYS, &["name", "arguments"]),
    row("resources/list", Request, ToServer, Need::List, ALWAYS, &["cursor"]),
    row("resources/templates/list", Request, ToServer, Need::List, ALWAYS, &["cursor"]),
    row("resources/read", Request, ToServer, Need::Resource, ALWAYS, &["uri"]),
    row("resources/subscribe", Request, ToServer, Need::Resource, SESSIONS, &["uri"]),
    row("resources/unsubscribe", Request, ToServer, Need::Resource, SESSIONS, &["uri"]),
    row("completion/complete", Request, ToServer, Need::Completion, ALWAYS, &["ref", "argument", "context"]),
    row("logging/setLevel", Request, ToServer, Need::Nothing, SESSIONS, &["level"]),
    row("notifications/tools/list_changed", Notification, ToClient, Need::Nothing, ALWAYS, &[]),
    row("notifications/prompts/list_changed", Notification, ToClient, Need::Nothing, ALWAYS, &[]),
    row("notifications/resources/list_changed", Notification, ToClient, Need::Nothing, ALWAYS, &[]),
    row("notifications/resources/updated", Notification, ToClient, Need::Resource, ALWAYS, &[]),
    row("notifications/roots/list_changed", Notification, ToServer, Need::Feature(Feature::Roots), SESSIONS, &[]),
    row("sampling/createMessage", Request, ToClient, Need::Feature(Feature::Sampling), SESSIONS, &[]),
    row("roots/list", Request, ToClient, Need::Feature(Feature::Roots), SESSIONS, &[]),
    row("elicitation/create", Request, ToClient, Need::Feature(Feature::Elicitation), (V2025_06_18, V2025_11_25), &[]),
    row("notifications/elicitation/complete", Notification, ToClient, Need::Feature(Feature::Elicitation), (V2025_11_25, V2025_11_25), &[]),
    row("tasks/get", Request, ToServer, Need::Task, (V2025_11_25, V2026_07_28), &[]),
    row("tasks/result", Request, ToServer, Need::Task, (V2025_11_25, V2025_11_25), &[]),
    row("tasks/cancel", Request, ToServer, Need::Task, (V2025_11_25, V2026_07_28), &[]),
    row("tasks/list", Request, ToServer, Need::Refused, (V2025_11_25, V2025_11_25), &[]),
    row("tasks/update", Request, ToServer, Need::Task, STATELESS, &[]),
    row("notifications/tasks/status", Notification, ToClient, Need::Task, (V2025_11_25, V2025_11_25), &[]),
    row("notifications/tasks", Notification, ToClient, Need::Task, STATELESS, &[]),
    row("server/discover", Request, ToServer, Need::Discover, STATELESS, &[]),
    row("subscriptions/listen", Request, ToServer, Need::Listen, STATELESS, &[]),
    row("notifications/subscriptions/acknowledged", Notification, ToClient, Need::Listen, STATELESS, &[]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(version: Version) -> BTreeSet<&'static str> {
        METHODS
            .iter()
            .filter(|method| method.in_version(version))
            .map(|method| method.name)
            .collect()
    }

    #[test]
    fn every_name_stands_once_and_its_form_follows_its_name() {
        for method in METHODS {
            assert_eq!(
                METHODS
                    .iter()
                    .filter(|other| other.name == method.name)
                    .count(),
                1,
                "{}",
                method.name
            );
            assert_eq!(
                method.form == Notification,
                is_notification(method.name),
                "{}",
                method.name
            );
            assert!(method.since <= method.until);
            assert_eq!(lookup(method.name), Some(method));
        }
    }

    #[test]
    fn the_versions_differ_as_their_schemas_do() {
        let gone = |from, to| {
            names(from)
                .difference(&names(to))
                .copied()
                .collect::<Vec<_>>()
        };
        assert_eq!(names(V2025_03_26).len(), 24);
        assert_eq!(gone(V2025_06_18, V2025_03_26), ["elicitation/create"]);
        assert_eq!(
            gone(V2025_11_25, V2025_06_18),
            [
                "notifications/elicitation/complete",
                "notifications/tasks/status",
                "tasks/cancel",
                "tasks/get",
                "tasks/list",
                "tasks/result"
            ]
        );
        assert_eq!(
            gone(V2026_07_28, V2025_11_25),
            [
                "notifications/subscriptions/acknowledged",
                "notifications/tasks",
                "server/discover",
                "subscriptions/listen",
                "tasks/update"
            ]
        );
        assert!(gone(V2025_03_26, V2025_11_25).is_empty());
    }

    #[test]
    fn no_row_that_names_a_tool_prompt_resource_or_task_passes_undecided() {
        let undecided = |allowed: bool| -> Vec<&str> {
            METHODS
                .iter()
                .filter(|method| method.to_server() && method.undecided(|_| allowed).is_some())
                .map(|method| method.name)
                .collect()
        };
        let always = [
            "tools/list",
            "notifications/progress",
            "initialize",
            "notifications/initialized",
            "ping",
            "prompts/list",
            "resources/list",
            "resources/templates/list",
            "logging/setLevel",
        ];
        assert_eq!(undecided(false), always);
        let with_roots = undecided(true);
        assert_eq!(with_roots.len(), always.len() + 1);
        assert!(with_roots.contains(&"notifications/roots/list_changed"));
    }

    #[test]
    fn unknown_and_nearly_known_names_are_not_in_the_table() {
        for name in [
            "",
            "tools/Call",
            "tools/call ",
            "tools/call\0",
            "tools",
            "resources/write",
            "Tools/call",
        ] {
            assert_eq!(lookup(name), None, "{name:?}");
        }
        assert_eq!(
            lookup("tasks/list").map(|method| method.need),
            Some(Need::Refused)
        );
    }
}
