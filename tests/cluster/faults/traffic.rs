//! An agent that calls all the time and checks each answer against the policies that may be in
//! force.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::operator::rig::call;
use crate::support::wire::client::Client;

/// Between calls, so that a machine of two cores has time for others.
const PACE: Duration = Duration::from_millis(60);

/// Violations that were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    pub denied: u64,
    pub hidden: u64,
}

/// The rounds of the policy that may be in force: from the last that is known to be, to the last
/// that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rounds {
    from: u32,
    to: u32,
}

pub struct Traffic {
    gateways: Arc<Mutex<Vec<SocketAddr>>>,
    rounds: Arc<Mutex<Rounds>>,
    stop: Arc<Mutex<bool>>,
    task: JoinHandle<Answered>,
}

impl Traffic {
    /// Opens a session at a gateway and calls there until it is stopped; round 1 is in force.
    ///
    /// It knows gateways by their addresses, as a node's Services go on when the API server is
    /// away.
    pub async fn start(gateway: SocketAddr) -> Self {
        let agent = Client::new(gateway, "/mcp").session().await;
        let gateways = Arc::new(Mutex::new(vec![gateway]));
        let rounds = Arc::new(Mutex::new(Rounds { from: 1, to: 1 }));
        let stop = Arc::new(Mutex::new(false));
        let task = tokio::spawn(flow(
            agent,
            Arc::clone(&gateways),
            Arc::clone(&rounds),
            Arc::clone(&stop),
        ));
        Traffic {
            gateways,
            rounds,
            stop,
            task,
        }
    }

    /// Calls go to this gateway too, in the same session.
    pub fn also(&self, gateway: SocketAddr) {
        self.gateways.lock().unwrap().push(gateway);
    }

    /// Where calls go.
    pub fn gateways(&self) -> Vec<SocketAddr> {
        self.gateways.lock().unwrap().clone()
    }

    /// That round is about to be accepted.
    pub fn may_be(&self, round: u32) {
        self.rounds.lock().unwrap().to = round;
    }

    /// That round is in force everywhere, so none before it may be from now on.
    pub fn is(&self, round: u32) {
        *self.rounds.lock().unwrap() = Rounds {
            from: round,
            to: round,
        };
    }

    /// Ends it; fails if an answer was wrong.
    pub async fn stop(self) -> Answered {
        *self.stop.lock().unwrap() = true;
        self.task.await.expect("an answer was wrong; see above")
    }
}

async fn flow(
    mut agent: Client,
    gateways: Arc<Mutex<Vec<SocketAddr>>>,
    rounds: Arc<Mutex<Rounds>>,
    stop: Arc<Mutex<bool>>,
) -> Answered {
    let mut answered = Answered::default();
    for turn in 0.. {
        if *stop.lock().unwrap() {
            break;
        }
        {
            let gateways = gateways.lock().unwrap();
            agent.addr = gateways[turn % gateways.len()];
        }
        assert_eq!(call(&agent, "get_run").await, Ok(()));
        assert_eq!(
            call(&agent, "delete_run").await,
            Err("Unknown tool: delete_run".to_owned())
        );
        answered.hidden += 1;
        let before = *rounds.lock().unwrap();
        let refused = call(&agent, "set_tag").await.unwrap_err();
        let after = *rounds.lock().unwrap();
        answered.denied += 1;
        let round = round(&refused);
        assert!(
            round.is_some_and(|round| before.from <= round && round <= after.to),
            "{refused}; may be in force: {before:?} to {after:?}"
        );
        tokio::time::sleep(PACE).await;
    }
    answered
}

/// The round that a refusal tells of.
fn round(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("round ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
