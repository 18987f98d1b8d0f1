//! The remarks about an import.
//!
//! In: remarks, each about a place of the document. Out: first the closures, then the rest; remarks
//! with the same text are one, with all their places. Must not do: omit a closure.

use crate::policy::diagnostic::Position;

/// A part of the document, and where it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line and column.
    pub at: Position,
    /// Its path, such as `tools.charge.rules[0].op`; empty for the whole document.
    pub path: String,
}

impl Place {
    /// The same path at a key.
    pub(super) fn key(&self, key: &str, at: Position) -> Place {
        let path = match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        };
        Place { at, path }
    }

    pub(super) fn index(&self, index: usize, at: Position) -> Place {
        Place {
            at,
            path: format!("{}[{index}]", self.path),
        }
    }

    pub(super) fn moved(&self, at: Position) -> Place {
        Place { at, ..self.clone() }
    }
}

/// One remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something could not be imported as meant, and is denied.
    pub closes: bool,
    /// What it is, and what to do next.
    pub text: String,
    /// What it is about, in the order of the file.
    pub places: Vec<Place>,
}

#[derive(Debug, Default)]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    pub fn add(&mut self, closes: bool, place: &Place, text: String) {
        let same = self
            .0
            .iter_mut()
            .find(|note| note.closes == closes && note.text == text);
        let note = match same {
            Some(note) => note,
            None => {
                self.0.push(Note {
                    closes,
                    text,
                    places: Vec::new(),
                });
                match self.0.last_mut() {
                    Some(note) => note,
                    None => return,
                }
            }
        };
        if !note.places.contains(place) {
            note.places.push(place.clone());
        }
    }

    pub fn finish(self) -> Vec<Note> {
        let mut notes = self.0;
        for note in &mut notes {
            note.places.sort();
        }
        notes.sort_by(|a, b| (!a.closes, a.places.first()).cmp(&(!b.closes, b.places.first())));
        notes
    }
}
