//! The supported functions, methods and macros.

use super::super::Fault;
use super::super::ir::{Const, Expr, Function, Kind, Kinds, Macro, Part};
use super::super::time;
use super::super::tree::{self, Node};
use super::{Lowering, Typed};
use jiff::tz::TimeZone;

const TYPE: &str = "write type(x) == string or type(x) in [int, uint, double]; the types are null_type, bool, int, uint, double, \
                    string, list and map";

impl Lowering<'_> {
    pub(super) fn call(
        &mut self,
        at: usize,
        name: &str,
        target: Option<&Node>,
        args: &[Node],
    ) -> Result<Typed, Fault> {
        if name == "has" {
            return self.has(at, target, args);
        }
        let kind = match name {
            "all" => Some(Macro::All),
            "exists" => Some(Macro::Exists),
            "exists_one" => Some(Macro::ExistsOne),
            "filter" => Some(Macro::Filter),
            _ => None,
        };
        if let (Some(kind), Some(target)) = (kind, target) {
            return self.comprehension(at, name, kind, target, args);
        }
        if name == "type" {
            return Err(Fault::new(at, TYPE));
        }
        if name == "matches" {
            return self.matches(at, target, args);
        }
        if let (Some(part), Some(target)) = (part(name), target) {
            return self.part(at, name, part, target, args);
        }
        let (function, method, count, result) = match name {
            "size" => (Function::Size, None, 1, Kind::Int),
            "startsWith" => (Function::StartsWith, Some(true), 2, Kind::Bool),
            "endsWith" => (Function::EndsWith, Some(true), 2, Kind::Bool),
            "contains" => (Function::Contains, Some(true), 2, Kind::Bool),
            "lowerAscii" => (Function::LowerAscii, Some(true), 1, Kind::String),
            "upperAscii" => (Function::UpperAscii, Some(true), 1, Kind::String),
            "int" => (Function::Int, Some(false), 1, Kind::Int),
            "uint" => (Function::Uint, Some(false), 1, Kind::Uint),
            "double" => (Function::Double, Some(false), 1, Kind::Double),
            "string" => (Function::String, Some(false), 1, Kind::String),
            "timestamp" => (Function::Timestamp, Some(false), 1, Kind::Timestamp),
            "duration" => (Function::Duration, Some(false), 1, Kind::Duration),
            _ => return Err(Fault::new(at, unknown_function(name))),
        };
        let form = if method == Some(true) {
            match count {
                1 => format!("x.{name}()"),
                _ => format!("x.{name}(\"…\")"),
            }
        } else {
            format!("{name}(x)")
        };
        if method.is_some_and(|method| method != target.is_some())
            || args.len() + usize::from(target.is_some()) != count
        {
            return Err(Fault::new(
                at,
                format!(
                    "`{name}` takes {}; write {form}",
                    match count - usize::from(method == Some(true)) {
                        0 => "nothing in its brackets",
                        _ => "one value in its brackets",
                    }
                ),
            ));
        }
        let mut lowered = Vec::with_capacity(count);
        for node in target.into_iter().chain(args) {
            let (expr, kind) = self.lower(node)?;
            if let Some(kind) = kind.filter(|kind| !accepts(function, *kind)) {
                return Err(Fault::new(
                    node.at,
                    format!(
                        "`{name}` does not take {}; write string(…) around it, or remove the call",
                        kind.name()
                    ),
                ));
            }
            lowered.push(expr);
        }
        // Times that are written out are read now: a wrong one is refused, a right one costs
        // nothing later.
        if let [Expr::Const(Const::Str(text))] = lowered.as_slice() {
            let node_at = args.first().map_or(at, |node| node.at);
            if function == Function::Timestamp {
                let time = time::timestamp(text).map_err(|message| Fault::new(node_at, message))?;
                return Ok((Expr::Const(Const::Time(time)), Some(Kind::Timestamp)));
            }
            if function == Function::Duration {
                let span = time::duration(text).map_err(|message| Fault::new(node_at, message))?;
                return Ok((Expr::Const(Const::Span(span)), Some(Kind::Duration)));
            }
        }
        Ok((Expr::Call(function, lowered), Some(result)))
    }

    /// `type(x) == string` and its like; types are not values, so they cost nothing when a call is
    /// decided.
    pub(super) fn is_of(
        &mut self,
        at: usize,
        operand: &[Node],
        operator: tree::Operator,
        types: &Node,
    ) -> Result<Typed, Fault> {
        let ([operand], tree::Operator::Equal | tree::Operator::NotEqual | tree::Operator::In) =
            (operand, operator)
        else {
            return Err(Fault::new(at, TYPE));
        };
        let types = match (&types.kind, operator) {
            (tree::Kind::List(types), tree::Operator::In) => types.as_slice(),
            (tree::Kind::Ident(_), tree::Operator::Equal | tree::Operator::NotEqual) => {
                std::slice::from_ref(types)
            }
            _ => return Err(Fault::new(types.at, TYPE)),
        };
        let mut kinds = Kinds::default();
        for name in types {
            let tree::Kind::Ident(text) = &name.kind else {
                return Err(Fault::new(name.at, TYPE));
            };
            kinds.add(match text.as_str() {
                "null_type" => Kind::Null,
                "bool" => Kind::Bool,
                "int" => Kind::Int,
                "uint" => Kind::Uint,
                "double" => Kind::Double,
                "string" => Kind::String,
                "list" => Kind::List,
                "map" => Kind::Map,
                _ => {
                    return Err(Fault::new(
                        name.at,
                        format!("`{text}` is not a type; {TYPE}"),
                    ));
                }
            });
        }
        let (operand, _) = self.lower(operand)?;
        let is_of = Expr::IsOf(Box::new(operand), kinds);
        let expr = match operator {
            tree::Operator::NotEqual => Expr::Not(Box::new(is_of)),
            _ => is_of,
        };
        Ok((expr, Some(Kind::Bool)))
    }

    fn has(&mut self, at: usize, target: Option<&Node>, args: &[Node]) -> Result<Typed, Fault> {
        let written = Fault::new(at, "write has(args.name): it asks whether a map has a key");
        let (
            None,
            [
                Node {
                    kind: tree::Kind::Select(operand, field),
                    ..
                },
            ],
        ) = (target, args)
        else {
            return Err(written);
        };
        if Self::field_of_context(operand, field).is_some() {
            return Err(Fault::new(
                at,
                "this variable is always there; has() is for optional keys",
            ));
        }
        let (operand, kind) = self.lower(operand)?;
        if kind.is_some_and(|kind| kind != Kind::Map) {
            return Err(written);
        }
        Ok((
            Expr::Has(Box::new(operand), field.as_str().into()),
            Some(Kind::Bool),
        ))
    }

    fn comprehension(
        &mut self,
        at: usize,
        name: &str,
        kind: Macro,
        target: &Node,
        args: &[Node],
    ) -> Result<Typed, Fault> {
        if self.in_macro {
            return Err(Fault::new(
                at,
                format!(
                    "`{name}` cannot stand inside another all, exists, exists_one or filter; write two conditions"
                ),
            ));
        }
        let [
            Node {
                kind: tree::Kind::Ident(local),
                ..
            },
            body,
        ] = args
        else {
            return Err(Fault::new(
                at,
                format!("`{name}` is written list.{name}(x, condition on x)"),
            ));
        };
        if matches!(
            local.as_str(),
            "args" | "sent" | "tool" | "caller" | "session" | "now"
        ) {
            return Err(Fault::new(
                at,
                format!("`{local}` is taken; name the element otherwise, for example `x`"),
            ));
        }
        let (range, found) = self.lower(target)?;
        if let Some(found) = found.filter(|k| !matches!(k, Kind::List | Kind::Map)) {
            return Err(Fault::new(
                target.at,
                format!("`{name}` goes over a list or a map, not {}", found.name()),
            ));
        }
        self.local = Some(local.clone());
        self.in_macro = true;
        let body = self.boolean(body, name);
        self.local = None;
        self.in_macro = false;
        let result = if kind == Macro::Filter {
            Kind::List
        } else {
            Kind::Bool
        };
        Ok((Expr::Macro(kind, Box::new((range, body?))), Some(result)))
    }

    fn matches(&mut self, at: usize, target: Option<&Node>, args: &[Node]) -> Result<Typed, Fault> {
        let (subject, pattern) = match (target, args) {
            (Some(subject), [pattern]) | (None, [subject, pattern]) => (subject, pattern),
            _ => {
                return Err(Fault::new(
                    at,
                    "`matches` is written text.matches(\"pattern\")",
                ));
            }
        };
        let tree::Kind::Str(text) = &pattern.kind else {
            return Err(Fault::new(
                pattern.at,
                "the pattern of `matches` must be literal text in quotes, as it is compiled before any call",
            ));
        };
        let (subject, kind) = self.lower(subject)?;
        if let Some(kind) = kind.filter(|k| *k != Kind::String) {
            return Err(Fault::new(
                at,
                format!("`matches` does not take {}", kind.name()),
            ));
        }
        let compiled = self
            .patterns
            .compile(text)
            .map_err(|message| Fault::new(pattern.at, message))?;
        Ok((Expr::Matches(Box::new(subject), compiled), Some(Kind::Bool)))
    }

    fn part(
        &mut self,
        at: usize,
        name: &str,
        part: Part,
        target: &Node,
        args: &[Node],
    ) -> Result<Typed, Fault> {
        let zone = match args {
            [] => TimeZone::UTC,
            [
                Node {
                    kind: tree::Kind::Str(zone),
                    at,
                    ..
                },
            ] => time::zone(zone).map_err(|message| Fault::new(*at, message))?,
            _ => {
                return Err(Fault::new(
                    at,
                    format!("`{name}` is written now.{name}() or now.{name}(\"Europe/Berlin\")"),
                ));
            }
        };
        let (target, kind) = self.lower(target)?;
        if let Some(kind) = kind.filter(|k| *k != Kind::Timestamp) {
            return Err(Fault::new(
                at,
                format!("`{name}` needs a timestamp, not {}", kind.name()),
            ));
        }
        Ok((Expr::Part(part, Box::new(target), zone), Some(Kind::Int)))
    }
}

fn part(name: &str) -> Option<Part> {
    Some(match name {
        "getFullYear" => Part::FullYear,
        "getMonth" => Part::Month,
        "getDate" => Part::Date,
        "getDayOfMonth" => Part::DayOfMonth,
        "getDayOfWeek" => Part::DayOfWeek,
        "getDayOfYear" => Part::DayOfYear,
        "getHours" => Part::Hours,
        "getMinutes" => Part::Minutes,
        "getSeconds" => Part::Seconds,
        "getMilliseconds" => Part::Milliseconds,
        _ => return None,
    })
}

fn unknown_function(name: &str) -> String {
    let write = match name {
        "map" => {
            return "`map` is not supported, as it can grow its result without bound; use all, exists or filter".to_owned();
        }
        "not" => return "`not` is not a function; write `!` before the condition".to_owned(),
        "lower" | "toLowerCase" | "toLower" | "tolower" => "lowerAscii()",
        "upper" | "toUpperCase" | "toUpper" | "toupper" => "upperAscii()",
        "len" | "length" | "count" => "size(x)",
        "includes" | "indexOf" | "has_substring" => "x.contains(\"…\")",
        "match" | "regex" | "test" | "regexMatch" | "re" => "x.matches(\"…\")",
        "hasPrefix" | "starts_with" => "x.startsWith(\"…\")",
        "hasSuffix" | "ends_with" => "x.endsWith(\"…\")",
        "any" | "some" => "list.exists(x, condition on x)",
        "every" => "list.all(x, condition on x)",
        "str" => "string(x)",
        "float" => "double(x)",
        "date" | "time" | "datetime" => "timestamp(\"2026-01-31T12:00:00Z\")",
        "exists" | "all" | "filter" | "exists_one" => {
            return format!("`{name}` is written list.{name}(x, condition on x)");
        }
        _ => match FUNCTIONS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(name))
            .or_else(|| {
                FUNCTIONS.iter().find(|known| {
                    name.len() < 40 && strsim::osa_distance(known, name) <= known.len() / 4
                })
            }) {
            Some(known) => {
                return format!("there is no function `{name}`; did you mean `{known}`?");
            }
            None => {
                return format!(
                    "there is no function `{name}`; the functions are {}",
                    FUNCTIONS.join(", ")
                );
            }
        },
    };
    format!("there is no function `{name}`; write {write}")
}

/// The functions, as a condition writes them.
const FUNCTIONS: [&str; 27] = [
    "has",
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "lowerAscii",
    "upperAscii",
    "all",
    "exists",
    "exists_one",
    "filter",
    "type",
    "int",
    "uint",
    "double",
    "string",
    "timestamp",
    "duration",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
];

fn accepts(function: Function, kind: Kind) -> bool {
    match function {
        Function::Size => matches!(kind, Kind::String | Kind::List | Kind::Map),
        Function::StartsWith
        | Function::EndsWith
        | Function::Contains
        | Function::LowerAscii
        | Function::UpperAscii => kind == Kind::String,
        Function::Int => kind.is_number() || matches!(kind, Kind::String | Kind::Timestamp),
        Function::Uint | Function::Double => kind.is_number() || kind == Kind::String,
        Function::String => {
            kind.is_number()
                || matches!(
                    kind,
                    Kind::String | Kind::Bool | Kind::Timestamp | Kind::Duration
                )
        }
        Function::Timestamp => matches!(kind, Kind::String | Kind::Int | Kind::Timestamp),
        Function::Duration => matches!(kind, Kind::String | Kind::Duration),
    }
}
