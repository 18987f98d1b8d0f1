//! Tokens of a CEL expression to a syntax tree.
//!
//! In: source text. Out: a tree no deeper than [`MAX_DEPTH`], each node with its offset, or the
//! first fault. Precedence and associativity are those of the CEL grammar. The parser counts its
//! own recursion and the depth of each tree that it builds, so its stack is bounded whatever the
//! text: a chain `1+1+…` is a deep tree too, and is refused.

use super::lex::{Token, tokens};
use super::tree::{Kind, Node, Operator, node, too_deep};
use super::{Fault, MAX_DEPTH, MAX_SOURCE};

/// Words that the CEL grammar reserves.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn parse(source: &str) -> Result<Node, Fault> {
    if source.len() > MAX_SOURCE {
        return Err(Fault::new(
            0,
            format!(
                "the expression has {} bytes and may have {MAX_SOURCE}; split it over several rules",
                source.len()
            ),
        ));
    }
    let tokens = tokens(source)?;
    let mut parser = Parser {
        tokens,
        next: 0,
        recursion: 0,
    };
    let node = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(node),
        _ => {
            Err(parser.unexpected("an operator such as `==`, `&&` or `||` before it, or remove it"))
        }
    }
}

/// What to write for an operator of another language.
fn foreign_word(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "and" => "`and` is not an operator; write `&&`",
        "or" => "`or` is not an operator; write `||`",
        "xor" => "`xor` is not an operator; write `!=` between the two conditions",
        "not" => {
            "`not` is not an operator; write `!` before the condition, as in !has(args.name) or !(args.name in ['a'])"
        }
        "is" | "eq" | "equals" => "this is not an operator; write `==`",
        "ne" | "neq" => "this is not an operator; write `!=`",
        "gt" => "`gt` is not an operator; write `>`",
        "ge" | "gte" => "this is not an operator; write `>=`",
        "lt" => "`lt` is not an operator; write `<`",
        "le" | "lte" => "this is not an operator; write `<=`",
        "like" | "matches" | "regex" => {
            "this is not an operator; compare with a pattern as args.name.matches('…')"
        }
        "contains" => {
            "`contains` is not an operator; write args.name.contains('…'), or 'x' in args.list"
        }
        "startswith" => "this is not an operator; write args.name.startsWith('…')",
        "endswith" => "this is not an operator; write args.name.endsWith('…')",
        "then" | "else" => "this is not an operator; write condition ? value : other",
        _ => return None,
    })
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    recursion: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens
            .get(self.next)
            .map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens
            .get(self.next)
            .or(self.tokens.last())
            .map_or(0, |(at, _)| *at)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn accept(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Token::Mark(found) if *found == mark);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, mark: &'static str) -> Result<(), Fault> {
        if self.accept(mark) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{mark}` before it")))
        }
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        let found = match self.peek() {
            Token::End => "the end of the expression".to_owned(),
            Token::Ident(name) => {
                if let Some(message) = foreign_word(name) {
                    return Fault::new(self.at(), message);
                }
                format!("`{name}`")
            }
            Token::Mark(mark) => format!("`{mark}`"),
            Token::Str(_) => "text in quotes".to_owned(),
            Token::Int(_) | Token::Uint(_) | Token::Double(_) => "a number".to_owned(),
        };
        let wrong = match self.peek() {
            Token::End => "the expression ends too early".to_owned(),
            _ => format!("{found} does not fit here"),
        };
        Fault::new(self.at(), format!("{wrong}; write {wanted}"))
    }

    fn expression(&mut self) -> Result<Node, Fault> {
        if self.recursion >= MAX_DEPTH {
            return Err(too_deep(self.at()));
        }
        self.recursion += 1;
        let result = self.ternary();
        self.recursion -= 1;
        result
    }

    fn ternary(&mut self) -> Result<Node, Fault> {
        let condition = self.or()?;
        let at = self.at();
        if !self.accept("?") {
            return Ok(condition);
        }
        let yes = self.or()?;
        self.expect(":")?;
        let no = self.expression()?;
        node(
            at,
            Kind::Ternary(Box::new(condition), Box::new(yes), Box::new(no)),
        )
    }

    fn or(&mut self) -> Result<Node, Fault> {
        let first = self.and()?;
        let at = self.at();
        let mut all = vec![first];
        while self.accept("||") {
            all.push(self.and()?);
        }
        match <[Node; 1]>::try_from(all) {
            Ok([only]) => Ok(only),
            Err(all) => node(at, Kind::Or(all)),
        }
    }

    fn and(&mut self) -> Result<Node, Fault> {
        let first = self.relation()?;
        let at = self.at();
        let mut all = vec![first];
        while self.accept("&&") {
            all.push(self.relation()?);
        }
        match <[Node; 1]>::try_from(all) {
            Ok([only]) => Ok(only),
            Err(all) => node(at, Kind::And(all)),
        }
    }

    fn binary(
        &mut self,
        operator: fn(&Token) -> Option<Operator>,
        operand: fn(&mut Self) -> Result<Node, Fault>,
    ) -> Result<Node, Fault> {
        let mut left = operand(self)?;
        while let Some(op) = operator(self.peek()) {
            let at = self.at();
            self.next += 1;
            let right = operand(self)?;
            left = node(at, Kind::Binary(op, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn relation(&mut self) -> Result<Node, Fault> {
        self.binary(
            |token| match token {
                Token::Mark("==") => Some(Operator::Equal),
                Token::Mark("!=") => Some(Operator::NotEqual),
                Token::Mark("<") => Some(Operator::Less),
                Token::Mark("<=") => Some(Operator::LessEqual),
                Token::Mark(">") => Some(Operator::Greater),
                Token::Mark(">=") => Some(Operator::GreaterEqual),
                Token::Ident(word) if word == "in" => Some(Operator::In),
                _ => None,
            },
            Self::sum,
        )
    }

    fn sum(&mut self) -> Result<Node, Fault> {
        self.binary(
            |token| match token {
                Token::Mark("+") => Some(Operator::Add),
                Token::Mark("-") => Some(Operator::Subtract),
                _ => None,
            },
            Self::product,
        )
    }

    fn product(&mut self) -> Result<Node, Fault> {
        self.binary(
            |token| match token {
                Token::Mark("*") => Some(Operator::Multiply),
                Token::Mark("/") => Some(Operator::Divide),
                Token::Mark("%") => Some(Operator::Remainder),
                _ => None,
            },
            Self::unary,
        )
    }

    /// `!`… or `-`… before a member, as the CEL grammar has it; `!-x` is not CEL.
    fn unary(&mut self) -> Result<Node, Fault> {
        let start = self.next;
        if self.accept("!") {
            while self.accept("!") {}
            let count = self.next - start;
            let mut result = self.member()?;
            for i in (0..count).rev() {
                result = node(self.offset(start + i), Kind::Not(Box::new(result)))?;
            }
            return Ok(result);
        }
        if self.accept("-") {
            while self.accept("-") {}
            let mut count = self.next - start;
            // The literal takes the last sign, so that the smallest integer can be written.
            if let Token::Int(value) = *self.peek()
                && value == i64::MIN.unsigned_abs()
            {
                self.next += 1;
                let literal = node(self.offset(start + count - 1), Kind::Int(i64::MIN))?;
                count -= 1;
                return self.negate(start, count, literal);
            }
            let result = self.member()?;
            return self.negate(start, count, result);
        }
        self.member()
    }

    fn negate(&mut self, start: usize, count: usize, mut result: Node) -> Result<Node, Fault> {
        for i in (0..count).rev() {
            let at = self.offset(start + i);
            result = match result.kind {
                Kind::Int(value) if value != i64::MIN => node(at, Kind::Int(-value))?,
                Kind::Double(value) => node(at, Kind::Double(-value))?,
                kind => node(
                    at,
                    Kind::Negate(Box::new(Node {
                        at: result.at,
                        depth: result.depth,
                        kind,
                    })),
                )?,
            };
        }
        Ok(result)
    }

    fn offset(&self, token: usize) -> usize {
        self.tokens.get(token).map_or(0, |(at, _)| *at)
    }

    fn member(&mut self) -> Result<Node, Fault> {
        let mut operand = self.primary()?;
        loop {
            let at = self.at();
            if self.accept(".") {
                if matches!(self.peek(), Token::Mark("?")) {
                    return Err(Fault::new(
                        at,
                        "optional fields are not supported; test with has()",
                    ));
                }
                let Token::Ident(name) = self.peek().clone() else {
                    return Err(self.unexpected("the name of a field after the dot"));
                };
                self.next += 1;
                operand = if self.accept("(") {
                    let args = self.list(")")?;
                    node(at, Kind::Call(name, Some(Box::new(operand)), args))?
                } else {
                    node(at, Kind::Select(Box::new(operand), name))?
                };
            } else if self.accept("[") {
                if matches!(self.peek(), Token::Mark("?")) {
                    return Err(Fault::new(
                        at,
                        "optional indexes are not supported; test with has()",
                    ));
                }
                let index = self.expression()?;
                self.expect("]")?;
                operand = node(at, Kind::Index(Box::new(operand), Box::new(index)))?;
            } else if matches!(self.peek(), Token::Mark("{")) {
                return Err(Fault::new(
                    at,
                    "a name before `{` has no meaning here; write a map as {\"key\": value}",
                ));
            } else {
                return Ok(operand);
            }
        }
    }

    fn list(&mut self, close: &'static str) -> Result<Vec<Node>, Fault> {
        let mut items = Vec::new();
        loop {
            if self.accept(close) {
                return Ok(items);
            }
            items.push(self.expression()?);
            if !self.accept(",") {
                self.expect(close)?;
                return Ok(items);
            }
            // A list may end in a comma, the arguments of a call may not.
            if close == ")" && matches!(self.peek(), Token::Mark(")")) {
                return Err(self.unexpected("an argument before it, or remove the comma"));
            }
        }
    }

    fn primary(&mut self) -> Result<Node, Fault> {
        let at = self.at();
        let kind = match self.take() {
            Token::Int(value) => Kind::Int(i64::try_from(value).map_err(|_| {
                Fault::new(
                    at,
                    "this number is too large; write it with u at its end, as 9223372036854775808u",
                )
            })?),
            Token::Uint(value) => Kind::Uint(value),
            Token::Double(value) => Kind::Double(value),
            Token::Str(text) => Kind::Str(text),
            Token::Mark("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Mark("[") => Kind::List(self.list("]")?),
            Token::Mark("{") => Kind::Map(self.entries()?),
            Token::Ident(word) => match word.as_str() {
                "true" => Kind::Bool(true),
                "false" => Kind::Bool(false),
                "null" => Kind::Null,
                "in" => {
                    self.next -= 1;
                    return Err(self.unexpected("a value, such as args.name, 'text' or 5"));
                }
                reserved if RESERVED.contains(&reserved) => {
                    return Err(Fault::new(
                        at,
                        format!(
                            "`{reserved}` is a word that CEL reserves; {}",
                            match reserved {
                                "if" | "else" => "write condition ? value : other",
                                _ => "an argument of this name is written args[\"…\"]",
                            }
                        ),
                    ));
                }
                "not" | "NOT" | "Not" if !matches!(self.peek(), Token::Mark("(") | Token::End) => {
                    self.next -= 1;
                    return Err(self.unexpected("a value"));
                }
                _ if self.accept("(") => Kind::Call(word, None, self.list(")")?),
                _ => Kind::Ident(word),
            },
            Token::Mark(_) | Token::End => {
                self.next -= 1;
                return Err(self.unexpected("a value, such as args.name, 'text' or 5"));
            }
        };
        node(at, kind)
    }

    fn entries(&mut self) -> Result<Vec<(Node, Node)>, Fault> {
        let mut entries = Vec::new();
        loop {
            if self.accept("}") {
                return Ok(entries);
            }
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?));
            if !self.accept(",") {
                self.expect("}")?;
                return Ok(entries);
            }
        }
    }
}
