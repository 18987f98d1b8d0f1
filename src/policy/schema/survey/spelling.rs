//! Text and keys that a server may decode once more, so that several spellings are one value to it.
//!
//! In: a text or a key, the schemas that hold for it, and which arguments rules read. Out: nothing,
//! or the argument that the server could read otherwise than a rule. Must not do: look below a
//! text.

use super::super::format::Formats;
use super::super::number::canonical_number;
use super::super::{Fail, Id, Kinds, Misfit, Node, ObjectRules, Off, Path, bounded, text};
use super::{Survey, World};
use serde_json::Value;

impl<'a> Survey<'a, '_> {
    /// A key of a map, which the server may convert: maps by numbers and maps by text have one
    /// schema.
    pub(super) fn key(
        &self,
        world: &World,
        rules: &[&'a ObjectRules],
        key: &str,
        path: &Path<'_>,
    ) -> Result<(), Fail> {
        let nodes = || world.iter().filter_map(|id| self.schema.node(*id));
        // What may be anything is left as it is.
        let is_map = || {
            let declared = |node: &Node| node.kinds != Kinds::ALL && node.kinds.has(Kinds::OBJECT);
            rules
                .iter()
                .any(|rules| rules.open || rules.names.is_some())
                || nodes().any(declared)
        };
        let Some(argument) = path
            .argument()
            .filter(|name| self.exact.asks_keys(name) && is_map())
        else {
            return Ok(());
        };
        self.fuel.burn(rules.len())?;
        self.fuel.burn_bytes(key.len() * 4)?;
        if let Some(form) = self.exact.form(argument)
            && form.takes(key, self.fuel)?
        {
            return Ok(());
        }
        let names = rules.iter().filter_map(|rules| rules.names);
        let formats = names
            .filter_map(|id| self.schema.node(id))
            .fold(Formats::PLAIN, |all, node| all.and(node.formats));
        let fault = formats.fault(key).or_else(|| {
            if canonical_number(key) {
                None
            } else if text::is_number(key) {
                Some("text, or a number in its shortest form of up to 15 digits".to_owned())
            } else if text::is_boolean(key) {
                Some("1 or 0 for true or false, or a longer word".to_owned())
            } else {
                None
            }
        });
        if let Some(fault) = fault {
            self.off(argument, || {
                format!(
                    "the key `{}` of {} has more than one spelling to some servers, and a rule reads it: write {fault}",
                    bounded(key),
                    path.describe()
                )
            });
        }
        Ok(())
    }

    fn off(&self, argument: &str, message: impl FnOnce() -> String) {
        let mut off = self.off.borrow_mut();
        if !off.iter().any(|other| other.name == argument) {
            off.push(Off {
                name: argument.to_owned().into(),
                misfit: Misfit(message()),
            });
        }
    }

    /// Text with a format, which the server may parse.
    fn format(&self, formats: Formats, text: &str, path: &Path<'_>) -> Result<(), Fail> {
        let asked = |name: &&str| self.exact.reads.reads(name) && self.exact.form(name).is_none();
        let Some(argument) = path.argument().filter(asked) else {
            return Ok(());
        };
        self.fuel.burn_bytes(text.len() * 4)?;
        if let Some(fault) = formats.fault(text) {
            self.off(argument, || {
                format!(
                    "{} has a format that servers read in more than one spelling, and a rule reads it: write {fault}",
                    path.describe()
                )
            });
        }
        Ok(())
    }

    pub(super) fn text(
        &self,
        ids: &[Id],
        text: &str,
        path: &Path<'_>,
        declared: bool,
    ) -> Result<(), Fail> {
        let nodes = || ids.iter().filter_map(|id| self.schema.node(*id));
        let formats = nodes().fold(Formats::PLAIN, |all, node| all.and(node.formats));
        if !formats.is_plain() {
            self.format(formats, text, path)?;
        }
        let is_null = |node: &Node| node.default == Some(Value::Null);
        let mut kinds = nodes().fold(Kinds::ALL, |kinds, node| kinds.and(node.admits));
        if nodes().any(is_null) {
            kinds = kinds.or(Kinds::NULL);
        }
        if kinds == Kinds::STRING {
            return Ok(());
        }
        // Below the arguments themselves, no server decodes a value that has neither a name nor a
        // type in the schema.
        let is_argument = path.above.is_some_and(Path::is_root);
        if kinds == Kinds::ALL && !declared && !is_argument {
            return Ok(());
        }
        self.fuel.burn_bytes(text.len() * 4)?;
        let misfit = |as_what: &str, send: &str| {
            Err(Fail::Misfit(Misfit(format!(
                "{} is text that some servers decode as {as_what}, so that a rule would read something else; send {send} itself, \
                 or other text",
                path.describe()
            ))))
        };
        if text::is_structure(text) {
            return misfit("JSON", "the null, list or object");
        }
        if kinds == Kinds::ALL {
            return Ok(());
        }
        if kinds.has(Kinds::NUMBER) && text::is_number(text) {
            return misfit("a number", "the number");
        }
        if kinds.has(Kinds::BOOL) && text::is_boolean(text) {
            return misfit("a boolean", "true or false");
        }
        Ok(())
    }
}
