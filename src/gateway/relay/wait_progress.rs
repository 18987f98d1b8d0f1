//! Progress of a call that waits for a person.
//!
//! In: the client's progress token, and what the call waits for. Out: notifications of the
//! gateway's own. Their values grow by a thousandth each: `progress` must increase with each
//! notification (2025-11-25, Progress), and those of the server come after these, most often as
//! whole numbers. Must not do: let a notification pass that goes back.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::json;
use crate::protocol::envelope::Notification;

/// The value grows by one of these for each notification.
const STEPS: u32 = 1_000;

/// The notifications that one waiting call has sent.
#[derive(Debug, Default)]
pub struct WaitProgress {
    sent: AtomicU32,
}

impl WaitProgress {
    /// The next one. `token` is the client's, as JSON.
    pub fn next(&self, token: &str, message: &str) -> String {
        let sent = self.sent.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let (whole, thousandths) = (sent / STEPS, sent % STEPS);
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{whole}.{thousandths:03},"message":{}}}}}"#,
            json::quoted(message)
        )
    }

    /// Whether a notification of the server would take the progress back, or not on.
    pub(super) fn is_behind(&self, notification: &Notification<'_>) -> bool {
        if notification.method != "notifications/progress" {
            return false;
        }
        let params = notification.params.as_ref();
        let progress = params.and_then(|params| params.get("progress")?.raw.parse::<f64>().ok());
        let sent = self.sent.load(Ordering::Relaxed);
        progress.is_some_and(|progress| progress <= f64::from(sent) / f64::from(STEPS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::{self, Message};

    #[test]
    fn progress_grows_and_never_goes_back_when_the_server_takes_over() {
        let progress = WaitProgress::default();
        let values: Vec<f64> = (0..2_500)
            .map(|_| {
                let text = progress.next("\"t\"", "waiting");
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                value["params"]["progress"].as_f64().unwrap()
            })
            .collect();
        assert!(values.is_sorted_by(|one, next| one < next));
        assert_eq!((values.first(), values.last()), (Some(&0.001), Some(&2.5)));
        let behind = |method: &str, progress_value: &str| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"progressToken":"t","progress":{progress_value}}}}}"#
            );
            let Ok(Message::Notification(notification)) = envelope::parse(text.as_bytes()) else {
                panic!("{text}");
            };
            progress.is_behind(&notification)
        };
        for (value, expected) in [("0", true), ("2.5", true), ("-1", true), ("2.501", false)] {
            assert_eq!(behind("notifications/progress", value), expected, "{value}");
        }
        assert!(!behind("notifications/message", "0"));
        // Without any of ours, the server's own pass as they are.
        let none = WaitProgress::default();
        let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}"#;
        let Ok(Message::Notification(first)) = envelope::parse(text.as_bytes()) else {
            panic!("{text}");
        };
        assert!(!none.is_behind(&first));
    }
}
