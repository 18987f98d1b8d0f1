//! The closed set of operations in a compiled expression.
//!
//! Made only by [`lower`](super::lower), run only by [`eval`](super::eval). Nothing here is named
//! by text that is looked up when a call is decided: variables and functions are enums, patterns
//! are compiled.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub(super) use super::tree::Operator;

#[derive(Clone, Debug)]
pub(super) enum Expr {
    Const(Const),
    Variable(Variable),
    /// The variable of the macro around it; one is enough, as macros do not nest.
    Local,
    Select(Box<Expr>, Box<str>),
    Has(Box<Expr>, Box<str>),
    Index(Box<Expr>, Box<Expr>),
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Binary(Operator, Box<(Expr, Expr)>),
    Ternary(Box<(Expr, Expr, Expr)>),
    /// The receiver of a method is its first argument.
    Call(Function, Vec<Expr>),
    Matches(Box<Expr>, super::Pattern),
    /// A part of a timestamp, in the zone that is that number of seconds east of UTC.
    Part(Part, Box<Expr>, TimeZone),
    Macro(Macro, Box<(Expr, Expr)>),
    /// Whether the value is of one of these kinds.
    IsOf(Box<Expr>, Kinds),
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds(u16);

impl Kinds {
    pub fn add(&mut self, kind: Kind) {
        self.0 |= 1 << kind as u16;
    }

    pub fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u16) != 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Const {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Box<str>),
    Time(Timestamp),
    Span(SignedDuration),
    /// A list or map of constants, kept as JSON so that evaluation borrows it.
    Json(serde_json::Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Args,
    Sent,
    ToolName,
    ToolRisk,
    ToolSeverity,
    CallerGrant,
    CallerKind,
    CallerGroups,
    CallerClaims,
    SessionId,
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Macro {
    All,
    Exists,
    ExistsOne,
    Filter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    StartsWith,
    EndsWith,
    Contains,
    LowerAscii,
    UpperAscii,
    Int,
    Uint,
    Double,
    String,
    Timestamp,
    Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// What sort of value an expression has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    List,
    Map,
    Timestamp,
    Duration,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Int => "an integer",
            Kind::Uint => "an unsigned integer",
            Kind::Double => "a double",
            Kind::String => "a string",
            Kind::List => "a list",
            Kind::Map => "a map",
            Kind::Timestamp => "a timestamp",
            Kind::Duration => "a duration",
        }
    }

    pub fn is_number(self) -> bool {
        matches!(self, Kind::Int | Kind::Uint | Kind::Double)
    }

    /// Whether `==` between the two is defined: numbers are one kind, and null compares with
    /// anything.
    pub fn comparable(self, other: Kind) -> bool {
        self == other
            || self == Kind::Null
            || other == Kind::Null
            || (self.is_number() && other.is_number())
    }
}
