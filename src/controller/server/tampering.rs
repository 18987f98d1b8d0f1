//! What others changed of what the operator owns, and told its user.
//!
//! In: each such change. Out: sentences for Events, not more than one a minute for the same field,
//! and a condition for as long as it lasts. Must not do: grow without bound, whatever another
//! writer does.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::controller::names::MANAGER;
use crate::controller::runtime::kinds::Kind;

/// A condition stays this long after the last change.
const TAMPERED_PERIOD: Duration = Duration::from_secs(300);
/// Between two Events about the same object, or field of it.
pub const EVENT_INTERVAL: Duration = Duration::from_secs(60);
/// Fields that are remembered of one server.
const MAX_FIELDS: usize = 64;

/// A field that another writer changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub field: String,
    /// Who, by the object's `managedFields`; none if it says only the operator, whose name anybody
    /// may write.
    pub manager: Option<String>,
}

/// The changes of others to one server's objects.
#[derive(Debug, Default)]
pub struct Tampering(BTreeMap<(Kind, String, String), Seen>);

#[derive(Debug)]
struct Seen {
    manager: Option<String>,
    count: u64,
    last: Instant,
    told: Option<Instant>,
    fresh: bool,
}

impl Tampering {
    /// Takes note of a change.
    pub fn note(&mut self, kind: Kind, name: &str, foreign: &Foreign, now: Instant) {
        self.0
            .retain(|_, seen| now.saturating_duration_since(seen.last) < TAMPERED_PERIOD);
        let key = (kind, name.to_owned(), foreign.field.clone());
        if !self.0.contains_key(&key) && self.0.len() >= MAX_FIELDS {
            return;
        }
        let seen = self.0.entry(key).or_insert(Seen {
            manager: None,
            count: 0,
            last: now,
            told: None,
            fresh: false,
        });
        if seen.manager != foreign.manager {
            seen.manager.clone_from(&foreign.manager);
            seen.told = None;
        }
        seen.count = seen.count.saturating_add(1);
        seen.last = now;
        seen.fresh = true;
    }

    /// What is to be reported now, each once.
    pub fn untold(&mut self, now: Instant) -> Vec<String> {
        let mut notes = Vec::new();
        for ((kind, name, field), seen) in &mut self.0 {
            let again = seen
                .told
                .is_none_or(|told| now.saturating_duration_since(told) >= EVENT_INTERVAL);
            if seen.fresh && again {
                seen.fresh = false;
                seen.told = Some(now);
                notes.push(format!(
                    "{} changed {field} of {} {name}, which the operator owns; the operator puts it right. Take away the right to change it.",
                    who(seen.manager.as_deref()),
                    kind.as_str()
                ));
            }
        }
        notes
    }

    /// What the condition says, while changes continue.
    pub fn condition(&self, now: Instant) -> Option<String> {
        let going_on = || {
            let lately = |seen: &&Seen| now.saturating_duration_since(seen.last) < TAMPERED_PERIOD;
            self.0.iter().filter(move |(_, seen)| lately(seen))
        };
        let ((kind, name, field), seen) = going_on().max_by_key(|(_, seen)| seen.last)?;
        let more = match going_on().count() {
            1 => String::new(),
            more => format!(" {} more fields were changed.", more - 1),
        };
        Some(format!(
            "{} changed {field} of {} {name}, which the operator owns, and the operator puts it right each time.{more} Take away the right to change it; the Events tell when.",
            who(seen.manager.as_deref()),
            kind.as_str()
        ))
    }

    /// When the condition ends, if nothing more is changed.
    pub fn quiet_in(&self, now: Instant) -> Option<Duration> {
        let last = self.0.values().map(|seen| seen.last).max()?;
        let left = (last + TAMPERED_PERIOD).checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }
}

fn who(manager: Option<&str>) -> String {
    match manager {
        Some(manager) => format!("The field manager {}", clean(manager)),
        None => format!("A writer under the name of {MANAGER}"),
    }
}

/// A manager's name as it may be shown: anybody chooses their own.
fn clean(name: &str) -> String {
    let shown = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    format!(
        "{:?}",
        name.chars()
            .filter(|c| shown(*c))
            .take(128)
            .collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(field: &str, manager: Option<&str>) -> Foreign {
        Foreign {
            field: field.to_owned(),
            manager: manager.map(str::to_owned),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_field_is_told_of_once_a_minute_and_the_condition_ends_when_it_is_quiet() {
        let mut tampering = Tampering::default();
        let change = |tampering: &mut Tampering, manager: &str| {
            let foreign = foreign("data.bundle.json", Some(manager));
            tampering.note(Kind::ConfigMap, "m-gateway", &foreign, Instant::now());
            tampering.untold(Instant::now())
        };
        let told = change(&mut tampering, "mallory");
        assert_eq!(told.len(), 1);
        for part in ["\"mallory\"", "data.bundle.json", "ConfigMap m-gateway"] {
            assert!(told[0].contains(part), "{told:?}");
        }
        for _ in 0..100 {
            assert_eq!(change(&mut tampering, "mallory"), [""; 0]);
        }
        assert_eq!(change(&mut tampering, "another").len(), 1);
        tokio::time::advance(EVENT_INTERVAL).await;
        assert_eq!(change(&mut tampering, "another").len(), 1);
        let said = tampering.condition(Instant::now()).unwrap();
        assert!(said.contains("\"another\""), "{said}");
        let left = tampering.quiet_in(Instant::now()).unwrap();
        tokio::time::advance(left).await;
        assert_eq!(tampering.condition(Instant::now()), None);
        assert_eq!(tampering.quiet_in(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_others_choose_neither_mislead_nor_fill_memory() {
        let mut tampering = Tampering::default();
        for field in 0..1_000 {
            let foreign = foreign(&format!("f{field}"), Some("a\u{202e}b\n\"c"));
            tampering.note(Kind::Role, "r", &foreign, Instant::now());
        }
        assert_eq!(tampering.0.len(), MAX_FIELDS);
        let told = tampering.untold(Instant::now());
        assert!(told[0].contains(r#""ab\"c""#), "{}", told[0]);
    }
}
