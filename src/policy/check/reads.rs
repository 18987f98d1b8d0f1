//! Which arguments an expression reads, and whether it reads what only the caller's token says.
//!
//! In: a compiled expression. Out: the names of the arguments that its value can depend on, or that
//! it may be any.

use super::ir::{Const, Expr, Operator, Variable};

/// The arguments that a rule reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// The arguments as a whole, so any of them.
    any: bool,
    names: Vec<Box<str>>,
    /// The groups or claims of the caller.
    token: bool,
}

impl Reads {
    pub(super) fn of(expr: &Expr) -> Self {
        let mut reads = Self::default();
        reads.look(expr);
        reads
    }

    /// Whether it can depend on some argument.
    pub fn some(&self) -> bool {
        self.any || !self.names.is_empty()
    }

    /// Whether it can depend on this one.
    pub fn reads(&self, name: &str) -> bool {
        self.any || self.names.iter().any(|read| **read == *name)
    }

    /// Whether it can depend on the groups or claims of the caller.
    pub fn reads_token(&self) -> bool {
        self.token
    }

    /// What either reads.
    pub fn and(mut self, other: &Reads) -> Self {
        self.any |= other.any;
        self.token |= other.token;
        other.names.iter().for_each(|name| self.name(name));
        self
    }

    fn name(&mut self, name: &str) {
        if !self.names.iter().any(|read| **read == *name) {
            self.names.push(name.into());
        }
    }

    fn look(&mut self, expr: &Expr) {
        let is_args = |expr: &Expr| matches!(expr, Expr::Variable(Variable::Args | Variable::Sent));
        match expr {
            Expr::Variable(Variable::Args | Variable::Sent) => self.any = true,
            Expr::Variable(Variable::CallerGroups | Variable::CallerClaims) => self.token = true,
            Expr::Const(_) | Expr::Variable(_) | Expr::Local => {}
            Expr::Select(operand, name) | Expr::Has(operand, name) if is_args(operand) => {
                self.name(name);
            }
            Expr::Index(operand, index) => match &**index {
                Expr::Const(Const::Str(name)) if is_args(operand) => self.name(name),
                index => {
                    self.look(operand);
                    self.look(index);
                }
            },
            Expr::Binary(operator, operands) => match (operator, &operands.0) {
                (Operator::In, Expr::Const(Const::Str(name))) if is_args(&operands.1) => {
                    self.name(name);
                }
                (_, left) => {
                    self.look(left);
                    self.look(&operands.1);
                }
            },
            Expr::Select(operand, _)
            | Expr::Has(operand, _)
            | Expr::Not(operand)
            | Expr::Negate(operand)
            | Expr::Matches(operand, _)
            | Expr::Part(_, operand, _)
            | Expr::IsOf(operand, _) => self.look(operand),
            Expr::List(items) | Expr::And(items) | Expr::Or(items) | Expr::Call(_, items) => {
                items.iter().for_each(|item| self.look(item))
            }
            Expr::Map(entries) => entries.iter().for_each(|(key, value)| {
                self.look(key);
                self.look(value);
            }),
            Expr::Ternary(parts) => {
                self.look(&parts.0);
                self.look(&parts.1);
                self.look(&parts.2);
            }
            Expr::Macro(_, parts) => {
                self.look(&parts.0);
                self.look(&parts.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Condition;

    #[test]
    fn an_expression_reads_the_arguments_that_it_names_or_any() {
        for (source, read, not) in [
            ("args.a == 'x'", "a", Some("b")),
            ("sent.a == 'x'", "a", Some("b")),
            ("'a' in sent", "a", Some("b")),
            ("size(sent) > 2", "z", None),
            ("type(args.a) == string", "a", Some("b")),
            ("has(args.a) && size(args.a.b) > 2", "a", Some("b")),
            ("args['a-b'] == 1", "a-b", Some("a")),
            ("'a' in args", "a", Some("b")),
            ("args.l.exists(x, x == 'b')", "l", Some("b")),
            ("size(args) > 2", "z", None),
            ("args[tool.name] == 'x'", "z", None),
            ("args.exists(k, k == 'a')", "z", None),
            ("{'x': args}.x.a == 'b'", "z", None),
        ] {
            let reads = Condition::compile(source).unwrap().reads().clone();
            assert!(reads.reads(read), "{source}");
            assert_eq!(not.filter(|name| reads.reads(name)), None, "{source}");
        }
        let none = Condition::compile("caller.grant == 'key:a'").unwrap();
        assert!(!none.reads().some() && !none.reads().reads_token());
        for source in [
            "'ops' in caller.groups",
            "args.a == 'x' || has(caller.claims.email) && caller.claims.email.endsWith('@a.example')",
        ] {
            let condition = Condition::compile(source).unwrap();
            assert!(condition.reads().reads_token(), "{source}");
        }
    }
}
