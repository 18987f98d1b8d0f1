//! The text of a record, formatted by hand, because every call pays for it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    ApprovalStep, Arguments, DecisionId, Ended, FailedLogin, FailedLoginDetail, MAX_ARGUMENT_NAMES,
    MAX_NAME_BYTES, Record,
};
use crate::json;
use crate::protocol::text;

thread_local! {
    /// The second whose text was written last, and that text: many lines fall into one second.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

/// Writes a time as `Display` of a timestamp does.
fn write_time(out: &mut String, time: Timestamp) {
    let (second, nanosecond) = (time.as_second(), time.subsec_nanosecond());
    let Ok(nanosecond @ 1..) = u32::try_from(nanosecond) else {
        let _ = write!(out, "{time}");
        return;
    };
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second {
            *known = second;
            text.clear();
            let whole = Timestamp::from_second(second).unwrap_or(time);
            let _ = write!(text, "{whole}");
            text.truncate(text.len().saturating_sub("Z".len()));
        }
        out.push_str(text);
    });
    let mut digits = [b'.', 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut rest = nanosecond;
    for digit in digits[1..].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    let zeros = digits
        .iter()
        .rev()
        .take_while(|digit| **digit == b'0')
        .count();
    out.push_str(std::str::from_utf8(&digits[..digits.len() - zeros]).unwrap_or_default());
    out.push('Z');
}

/// The text of a record, formatted by hand, because every call pays for it.
pub(super) struct Line {
    text: String,
    /// Holds characters that a terminal would act on.
    strange: bool,
}

impl Line {
    /// Writes into `text`, which is empty.
    pub(super) fn of(record: &Record<'_>, text: String) -> String {
        let mut line = Line {
            text,
            strange: false,
        };
        line.open(record.time, record.decision_id, "decision", record.server);
        line.member("grant", record.grant);
        line.optional("session", record.session);
        line.member("method", record.method);
        line.optional(
            "tool",
            record.tool.map(|tool| text::cut(tool, MAX_NAME_BYTES)),
        );
        line.fixed("outcome", record.outcome);
        line.optional("policy", record.policy);
        line.optional("rule", record.rule);
        line.optional(
            "reason",
            record.reason.map(|why| text::cut(why, MAX_NAME_BYTES)),
        );
        if !record.near.is_empty() {
            line.text.push_str(",\"near\":[");
            for (index, rule) in record.near.iter().enumerate() {
                if index > 0 {
                    line.text.push(',');
                }
                line.string(rule);
            }
            line.text.push(']');
        }
        line.text.push_str(if record.enforced {
            ",\"enforced\":true"
        } else {
            ",\"enforced\":false"
        });
        line.optional("approval", record.approval);
        if let Some(state) = record.approval_state {
            line.fixed("approvalState", state.as_str());
        }
        if let Some(after) = record.retry_after_ms {
            line.text.push_str(",\"retryAfterMs\":");
            json::write_number(&mut line.text, after);
        }
        match &record.arguments {
            None => {}
            Some(Arguments::Keys(keys)) => {
                line.text.push_str(",\"arguments\":[");
                for (index, key) in keys.iter().take(MAX_ARGUMENT_NAMES).enumerate() {
                    if index > 0 {
                        line.text.push(',');
                    }
                    line.string(text::cut(key, MAX_NAME_BYTES));
                }
                line.text.push(']');
                if let Some(more) = keys
                    .len()
                    .checked_sub(MAX_ARGUMENT_NAMES)
                    .filter(|more| *more > 0)
                {
                    let _ = write!(line.text, ",\"argumentsOmitted\":{more}");
                }
            }
            Some(Arguments::Full(json)) => {
                line.text.push_str(",\"arguments\":");
                line.text.push_str(json.get());
                line.strange = true;
            }
        }
        line.member("revision", record.revision);
        line.optional("traceId", record.trace_id);
        line.close()
    }

    /// Writes into `text`, which is empty.
    pub(super) fn of_end(end: &Ended<'_>, text: String) -> String {
        let mut line = Line {
            text,
            strange: false,
        };
        line.open(end.time, end.decision_id, "end", end.server);
        let Ended {
            status, latency_ms, ..
        } = end;
        line.text.push_str(",\"upstream\":{\"status\":\"");
        line.text.push_str(status);
        line.text.push_str("\",\"latencyMs\":");
        json::write_number(&mut line.text, *latency_ms);
        line.text.push('}');
        line.close()
    }

    /// Writes into `text`, which is empty.
    pub(super) fn of_step(step: &ApprovalStep<'_>, text: String) -> String {
        let mut line = Line {
            text,
            strange: false,
        };
        line.open(step.time, step.decision_id, "approval", step.server);
        line.member("approval", step.approval);
        line.member("step", step.step);
        line.member("grant", step.grant);
        line.member("tool", text::cut(step.tool, MAX_NAME_BYTES));
        line.member("policy", step.policy);
        line.member("rule", step.rule);
        line.member("digest", step.digest);
        line.optional("observed", step.observed);
        line.optional("by", step.by);
        line.optional("reason", step.reason);
        if !step.approvers.is_empty() {
            line.text.push_str(",\"approvers\":[");
            for (index, approver) in step.approvers.iter().enumerate() {
                if index > 0 {
                    line.text.push(',');
                }
                line.string(approver);
            }
            line.text.push(']');
        }
        line.close()
    }

    /// Writes into `text`, which is empty. Nothing of it comes from the client but its address.
    pub(super) fn of_failed_login(failed: &FailedLogin<'_>, text: String) -> String {
        let mut line = Line {
            text,
            strange: false,
        };
        let FailedLogin {
            time,
            decision_id,
            server,
            address,
            detail,
        } = failed;
        line.open(*time, *decision_id, "authentication", server);
        match detail {
            FailedLoginDetail::Refused(failure) => {
                line.text.push_str(",\"status\":");
                json::write_number(&mut line.text, failure.status().into());
                line.fixed("reason", failure.as_str());
            }
            FailedLoginDetail::Suppressed { count, seconds } => {
                line.text.push_str(",\"suppressed\":");
                json::write_number(&mut line.text, *count);
                line.text.push_str(",\"windowSeconds\":");
                json::write_number(&mut line.text, *seconds);
            }
        }
        if let Some(address) = address {
            line.member("address", &address.to_string());
        }
        line.close()
    }

    /// What every line begins with.
    fn open(&mut self, time: Timestamp, id: DecisionId<'_>, event: &'static str, server: &str) {
        // Neither times nor ids need escapes, and writing to a string cannot fail.
        self.text.push_str("{\"v\":1,\"time\":\"");
        write_time(&mut self.text, time);
        self.text.push_str("\",\"decisionId\":\"");
        id.write(&mut self.text);
        self.text.push('"');
        self.fixed("event", event);
        self.member("server", server);
    }

    fn close(mut self) -> String {
        self.text.push('}');
        if self.strange
            && let Cow::Owned(plain) = text::plain_json(&self.text)
        {
            self.text = plain;
        }
        self.text.push('\n');
        self.text
    }

    fn member(&mut self, key: &str, value: &str) {
        self.text.push_str(",\"");
        self.text.push_str(key);
        self.text.push_str("\":");
        self.string(value);
    }

    /// A value of our own, which needs no escapes.
    fn fixed(&mut self, key: &str, value: &'static str) {
        for part in [",\"", key, "\":\"", value, "\""] {
            self.text.push_str(part);
        }
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.member(key, value);
        }
    }

    fn string(&mut self, value: &str) {
        // No branch for each byte: this is a few wide instructions.
        let strange = value.bytes().fold(false, |strange, byte| {
            strange | !matches!(byte, b' '..=b'~') | (byte == b'"') | (byte == b'\\')
        });
        if strange {
            self.strange = true;
            json::write_string(&mut self.text, value);
        } else {
            self.text.push('"');
            self.text.push_str(value);
            self.text.push('"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_it_is_displayed() {
        let times = [
            (0, 0),
            (0, 1),
            (1_700_000_000, 120_000_000),
            (1_700_000_000, 999_999_999),
            (1_700_000_000, 0),
            (1_700_000_001, 100),
            (-1, 0),
            (-2, -500_000_000),
            (253_402_207_200, 1_000),
            (1_700_000_000, 1),
        ];
        for (second, nanosecond) in times {
            let time = Timestamp::new(second, nanosecond).unwrap();
            let mut written = String::new();
            write_time(&mut written, time);
            assert_eq!(written, time.to_string());
        }
    }
}
