//! Patterns of `matches`, compiled together with their policy, within bounds.
//!
//! In: literal texts. Out: compiled patterns, or what is wrong. The author of a policy must not be
//! able to make the operator or a gateway spend unbounded memory or time on it: a pattern of six
//! characters takes a quarter of a megabyte, and one of four kilobytes takes seconds. So the
//! patterns of a policy, and of all policies of a server, have a budget.

use super::dialect::{Dialect, NESTED, translate, unusable};
use super::fuel::{EvalError, Fuel};
use regex_automata::Input;
use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::{pool::Pool, start, syntax};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

/// Memory that one pattern's automaton may take.
const PATTERN_SIZE: usize = 128 * 1024;
/// Memory of the states that one search keeps.
const SEARCH_SIZE: usize = 64 * 1024;

/// What patterns may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Different patterns.
    pub patterns: usize,
    /// Bytes of their texts.
    pub text: usize,
    /// Bytes that all of them take, compiled.
    pub bytes: usize,
    /// Character classes such as `\w` and `\p{L}`, in all of them. Where `(?i)` is used, large ones
    /// count more.
    pub classes: u64,
    /// Whose they are, for messages.
    pub whose: &'static str,
}

/// The bounds of one policy.
pub const POLICY: Bounds = Bounds {
    patterns: 64,
    text: 64 * 1024,
    bytes: 1024 * 1024,
    classes: 320,
    whose: "a policy",
};

/// The bounds of all policies of a server together.
pub const SERVER: Bounds = Bounds {
    patterns: 128,
    text: 128 * 1024,
    bytes: 2 * 1024 * 1024,
    classes: 640,
    whose: "the policies of a server together",
};

/// The bounds of the schemas of one listing together.
const LISTING: Bounds = Bounds {
    patterns: 256,
    text: 128 * 1024,
    bytes: 2 * 1024 * 1024,
    classes: 640,
    whose: "the schemas of a listing together",
};

/// Steps that filling the memory of a search with states takes: about a millisecond.
const FILL: usize = 200_000;
/// How often a search of a wild pattern may fill that memory.
const FILLS: usize = 3;
/// The number of transitions that are examined to find out whether a pattern is tame.
const EXPLORED: usize = 16 * 1_024;

/// A compiled pattern, run as an automaton whose states are made when they are first needed.
///
/// Most patterns are *tame*: all the states that they have fit into the memory of a search, so that
/// a search is some instructions a byte, whatever the text. The others, such as
/// `[ab]*a[ab]{1000}c`, could need a new state at each byte, thousands of instructions: those
/// searches begin with an empty memory, so that what they cost depends on nothing but pattern and
/// text, and end when they have filled it some times.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Automaton>);

type Make = Box<dyn Fn() -> Cache + Send + Sync + UnwindSafe + RefUnwindSafe>;

#[derive(Debug)]
struct Automaton {
    dfa: Arc<DFA>,
    memory: usize,
    /// Memories of searches, if the pattern is tame.
    tame: Option<Pool<Cache, Make>>,
}

impl Pattern {
    fn new(dfa: DFA, memory: usize) -> Self {
        let dfa = Arc::new(dfa);
        let tame = is_tame(&dfa).then(|| {
            let of = Arc::clone(&dfa);
            let make: Make = Box::new(move || of.create_cache());
            Pool::new(make)
        });
        Self(Arc::new(Automaton { dfa, memory, tame }))
    }

    /// Bytes that it takes.
    fn memory(&self) -> usize {
        self.0.memory
    }

    /// Whether it is somewhere in the text, for what that costs.
    ///
    /// # Errors
    /// When the call has used up its work.
    pub fn search(&self, text: &str, fuel: &Fuel) -> Result<bool, EvalError> {
        fuel.burn(1 + text.len() / 4)?;
        let Automaton { dfa, tame, .. } = &*self.0;
        let input = Input::new(text).earliest(true);
        if let Some(caches) = tame {
            let found = dfa.try_search_fwd(&mut caches.get(), &input);
            return found.map(|found| found.is_some()).map_err(|_| fuel.spend());
        }
        let mut cache = dfa.create_cache();
        let empty = cache.memory_usage();
        let found = dfa.try_search_fwd(&mut cache, &input);
        let filled = cache.memory_usage().saturating_sub(empty);
        fuel.burn(cache.clear_count() * FILL + filled * (FILL / SEARCH_SIZE))?;
        found.map(|found| found.is_some()).map_err(|_| fuel.spend())
    }
}

/// Whether all states fit into the memory of a search: they are all made, once.
fn is_tame(dfa: &DFA) -> bool {
    let mut cache = dfa.create_cache();
    let mut seen = HashSet::new();
    let mut open = Vec::new();
    let mut left = EXPLORED;
    // Where a search can begin: at the start of the text, or, as it may be asked from a place
    // inside, after some byte.
    for behind in [None, Some(b'a'), Some(b'-'), Some(b'\n'), Some(b'\r')] {
        let config = start::Config::new().look_behind(behind);
        match dfa.start_state(&mut cache, &config) {
            Ok(state) if cache.clear_count() == 0 => open.push(state),
            _ => return false,
        }
    }
    let bytes: Vec<u8> = dfa
        .byte_classes()
        .representatives(0..=255)
        .filter_map(|unit| unit.as_u8())
        .collect();
    while let Some(state) = open.pop() {
        if state.is_dead() || state.is_quit() || !seen.insert(state) {
            continue;
        }
        let Some(rest) = left.checked_sub(bytes.len() + 1) else {
            return false;
        };
        left = rest;
        for byte in &bytes {
            match dfa.next_state(&mut cache, state, *byte) {
                // The names of states end with the memory that they are in.
                Ok(next) if cache.clear_count() == 0 => open.push(next),
                _ => return false,
            }
        }
        if dfa.next_eoi_state(&mut cache, state).is_err() || cache.clear_count() > 0 {
            return false;
        }
    }
    true
}

/// What some patterns cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    patterns: usize,
    text: usize,
    bytes: usize,
    classes: u64,
}

impl Spent {
    /// What both cost.
    pub fn and(self, other: Spent) -> Spent {
        Spent {
            patterns: self.patterns.saturating_add(other.patterns),
            text: self.text.saturating_add(other.text),
            bytes: self.bytes.saturating_add(other.bytes),
            classes: self.classes.saturating_add(other.classes),
        }
    }

    /// Whether this is within bounds, or which of them is exceeded.
    pub fn within(self, bounds: &Bounds) -> Result<(), String> {
        let (what, has, may) = if self.patterns > bounds.patterns {
            (
                "different patterns",
                self.patterns.to_string(),
                bounds.patterns.to_string(),
            )
        } else if self.text > bounds.text {
            (
                "bytes in different patterns",
                self.text.to_string(),
                bounds.text.to_string(),
            )
        } else if self.bytes > bounds.bytes {
            (
                "KiB of compiled patterns",
                (self.bytes / 1024).to_string(),
                (bounds.bytes / 1024).to_string(),
            )
        } else if self.classes > bounds.classes {
            (
                "large character classes in patterns",
                self.classes.to_string(),
                bounds.classes.to_string(),
            )
        } else {
            return Ok(());
        };
        Err(format!(
            "with this there are {has} {what}, and {} may have {may}; use fewer patterns, startsWith(), endsWith(), \
             contains() or in, lowerAscii() instead of (?i), and \\w instead of \\p{{…}}",
            bounds.whose
        ))
    }
}

/// The patterns of one policy. The same text is compiled once.
#[derive(Debug)]
pub struct Patterns {
    known: HashMap<(Box<str>, Dialect), Pattern>,
    spent: Spent,
    bounds: &'static Bounds,
}

impl Default for Patterns {
    fn default() -> Self {
        Self::within(&POLICY)
    }
}

impl Patterns {
    fn within(bounds: &'static Bounds) -> Self {
        Self {
            known: HashMap::new(),
            spent: Spent::default(),
            bounds,
        }
    }

    /// For the schemas of one listing.
    pub fn of_listing() -> Self {
        Self::within(&LISTING)
    }

    /// What they cost so far; what was refused costs too, so that refusing has an end.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Compiles a pattern, unless there have been too many.
    ///
    /// # Errors
    /// What is wrong with the pattern, or with all of them.
    pub fn compile(&mut self, text: &str) -> Result<Pattern, String> {
        self.compile_in(text, Dialect::Policy)
    }

    /// Compiles a pattern that the whole text must match.
    ///
    /// # Errors
    /// What is wrong with the pattern, or with all of them.
    pub fn compile_whole(&mut self, text: &str) -> Result<Pattern, String> {
        // By itself first: `a)(b` must not become two groups.
        translate(text, Dialect::Policy)?;
        self.compile(&format!("\\A(?:{text})\\z"))
    }

    /// The same for a pattern of that dialect.
    ///
    /// # Errors
    /// What is wrong with the pattern, or with all of them.
    pub fn compile_in(&mut self, text: &str, dialect: Dialect) -> Result<Pattern, String> {
        let key = (Box::from(text), dialect);
        if let Some(pattern) = self.known.get(&key) {
            return Ok(pattern.clone());
        }
        let mut cost = Spent {
            patterns: 1,
            text: text.len(),
            ..Spent::default()
        };
        // Before anything is done that takes time.
        self.spent.and(cost).within(self.bounds)?;
        let built = translate(text, dialect).and_then(|(text, classes)| {
            cost.classes = classes;
            self.spent.and(cost).within(self.bounds)?;
            build(&text)
        });
        cost.bytes = built
            .as_ref()
            .map_or(PATTERN_SIZE, |pattern| pattern.memory());
        self.spent = self.spent.and(cost);
        let pattern = built?;
        self.spent.within(self.bounds)?;
        self.known.insert(key, pattern.clone());
        Ok(pattern)
    }
}

fn build(text: &str) -> Result<Pattern, String> {
    let nfa = thompson::Compiler::new()
        .configure(
            thompson::Config::new()
                .nfa_size_limit(Some(PATTERN_SIZE))
                .which_captures(WhichCaptures::None),
        )
        // A word boundary of ASCII may lie inside a character, as far as the parser knows; a match
        // never does.
        .syntax(syntax::Config::new().nest_limit(NESTED).utf8(false))
        .build(text)
        .map_err(|error| match (error.size_limit(), error.source()) {
            (Some(_), _) => format!(
                "the pattern takes more than {} KiB, compiled; repeat less, and write \\w instead of \\p{{…}}",
                PATTERN_SIZE / 1024
            ),
            (None, Some(source)) => unusable(&source),
            (None, None) => unusable(&error),
        })?;
    // What is kept beside it is about as large.
    let memory = nfa.memory_usage().saturating_mul(2);
    let config = Config::new()
        .cache_capacity(SEARCH_SIZE)
        .skip_cache_capacity_check(true)
        .minimum_cache_clear_count(Some(FILLS));
    regex_automata::hybrid::dfa::Builder::new()
        .configure(config)
        .build_from_nfa(nfa)
        .map(|dfa| Pattern::new(dfa, memory))
        .map_err(|error| unusable(&error))
}

#[cfg(test)]
mod tests;
