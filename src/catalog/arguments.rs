//! The types of the arguments of catalogued tools.
//!
//! In: a tool and an argument. Out: the type that its schema gives it, where every server that has
//! a tool of that name gives it the same. `tests/offline/generated.rs` writes the list from the
//! servers' own listings. Must not do: check a call; the gateway reads the schema of the server
//! that it protects.

/// `tool argument type`, a line each.
const TYPES: &str = include_str!("arguments.txt");

/// The type of an argument: `string`, `integer`, `number`, `boolean`, `array` or `object`.
pub fn argument_type(tool: &str, argument: &str) -> Option<&'static str> {
    TYPES.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.next() == Some(tool) && words.next() == Some(argument)).then(|| words.next())?
    })
}
