//! Messages of callers without a credential at the upstream: answered here, whatever they are.
//!
//! In: a message, or the head of a request for a stream. Out: an answer that says what to do. A
//! call is recorded as denied. Nothing is sent anywhere: there is no credential to send it with.

use std::sync::Arc;

use http::StatusCode;

use super::Exchange;
use super::responses::{Answer, accepted, fault_text, refuse};
use crate::gateway::enforce;
use crate::gateway::force::credentials::NoCredential;
use crate::gateway::upstream::Upstream;
use crate::protocol::answer::{self, To};
use crate::protocol::envelope::{Message, Request as Rpc};
use crate::protocol::version::Version;

impl Exchange<'_> {
    /// The upstream as this caller reaches it.
    pub(super) fn upstream(&self) -> Result<&Arc<Upstream>, Box<Answer>> {
        self.upstream.as_ref().map_err(|missing| {
            let body = answer::invalid_request(None, &self.told(missing));
            refuse(StatusCode::FORBIDDEN, body)
        })
    }

    /// The answer to a message of a caller without a credential. Under 200, so that the agent reads
    /// it and common clients keep their session.
    pub(super) fn without_credential(
        &self,
        missing: &NoCredential,
        message: &Message<'_>,
    ) -> Result<Answer, Box<Answer>> {
        let Message::Request(request) = message else {
            return Ok(accepted());
        };
        let told = self.told(missing);
        let body = if request.method == "tools/call" {
            return Err(self.call_without_credential(missing, request, &told));
        } else {
            answer::invalid_request(Some(&request.id), &told)
        };
        Err(refuse(StatusCode::OK, body))
    }

    fn call_without_credential(
        &self,
        missing: &NoCredential,
        request: &Rpc<'_>,
        told: &str,
    ) -> Box<Answer> {
        let id = &request.id;
        let call = match request.tool_call() {
            Ok(call) => call,
            Err(fault) => {
                let body = answer::invalid_params(id, &fault_text(&fault));
                return refuse(StatusCode::OK, body);
            }
        };
        let denied = enforce::Uncredentialed {
            by: &missing.by,
            tool: &call.name,
            arguments: call.arguments.map(str::as_bytes).unwrap_or_default(),
            grant: &self.grant.caller.grant,
            trace_id: self.trace_id.as_deref(),
        };
        let number = denied.record(self.gateway, &self.snapshot);
        let decision = self.gateway.observe.id(number).to_string();
        let to = To {
            version: Version::LATEST_SESSION,
            id,
            decision: Some(&decision),
        };
        let body = answer::tool_refused(to, told, None);
        let answer = *refuse(StatusCode::OK, body);
        Box::new(self.naming(Some(number), answer))
    }

    fn told(&self, missing: &NoCredential) -> String {
        missing.told(self.gateway.observe.server(), &self.grant.caller.grant)
    }
}
