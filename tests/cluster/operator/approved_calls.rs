//! Calls that a person approves, on the real API: made, decided, used once, whatever dies
//! meanwhile.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use portcullis::api::approval::{McpApproval, Phase};
use serde_json::{Value, json};

use super::rig::{Room, call, pod_ready, policy, server};
use crate::support::control_plane::Program;
use crate::support::eventually;
use crate::support::wire::client::Client;
use crate::support::wire::upstream::Fake;

const SERVER: &str = "mlflow";

/// A room with a server whose tool `promote` needs approval and whose tool `get` does not.
pub(super) async fn asking(room: &Room, fake: &Fake, replicas: u32, approval: Value) {
    let mut object = server(SERVER, fake);
    object["spec"]["gateway"] = json!({ "replicas": replicas });
    room.apply(&object);
    room.apply(&policy(
        "p",
        SERVER,
        json!([
            {"name": "ask", "tools": {"names": ["promote"]}, "action": "RequireApproval", "approval": approval},
            {"name": "reads", "tools": {"names": ["get"]}, "action": "Allow"},
        ]),
    ));
    room.ready(SERVER).await;
    room.holds(SERVER, &["p"]).await;
}

fn held() -> Value {
    json!({"expiresAfter": "10m", "waitUpTo": "80s"})
}

pub(super) fn approvals(room: &Room) -> Api<McpApproval> {
    Api::namespaced(room.client.clone(), room.name())
}

/// All of them once there are as many, by name.
pub(super) async fn listed(room: &Room, count: usize) -> Vec<McpApproval> {
    eventually(&format!("{count} approvals"), || async {
        let all = approvals(room).list(&ListParams::default()).await.unwrap();
        if all.items.len() == count {
            Ok(all.items)
        } else {
            Err(all
                .items
                .iter()
                .map(ResourceExt::name_any)
                .collect::<Vec<_>>())
        }
    })
    .await
}

/// What `kubectl patch` does, by a person who may.
pub(super) async fn decide(room: &Room, name: &str, verdict: &str, reason: Option<&str>) {
    let alice = room.cluster.impersonate("alice", &["system:masters"]);
    let all: Api<McpApproval> = Api::namespaced(alice, room.name());
    let change =
        json!({"spec": {"decisions": [{"verdict": verdict, "by": "alice", "reason": reason}]}});
    all.patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}

pub(super) async fn phase_is(room: &Room, name: &str, wanted: Phase) -> McpApproval {
    eventually(&format!("{name} is {wanted:?}"), || async {
        let found = approvals(room).get(name).await.unwrap();
        match found.phase_at(Timestamp::now()) == wanted {
            true => Ok(found),
            false => Err(found),
        }
    })
    .await
}

/// A call in the background, and what it is answered: whether it was refused, and the text.
pub(super) fn promote(agent: &Client, text: &str) -> tokio::task::JoinHandle<(bool, String)> {
    let (agent, arguments) = (agent.clone(), json!({ "text": text }));
    tokio::spawn(async move { agent.call("promote", arguments).await.tool() })
}

/// A client of each of a server's pods, past the Service.
pub(super) async fn agents(room: &Room, count: usize) -> Vec<Client> {
    let pods = eventually("every gateway is ready", || async {
        let pods = room.gateway_pods(SERVER).await;
        match pods.len() == count && pods.iter().all(pod_ready) {
            true => Ok(pods),
            false => Err(pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()),
        }
    })
    .await;
    let mut agents = Vec::new();
    for pod in pods {
        let address = pod.status.unwrap().pod_ip.unwrap().parse().unwrap();
        let agent = Client::new(SocketAddr::new(address, 8080), "/mcp");
        agents.push(agent.session().await);
    }
    agents
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_is_made_and_one_call_whatever_the_number_of_retries_and_replicas() {
    let Some(room) = Room::open("approved calls").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    let short = json!({"expiresAfter": "10m", "waitUpTo": "3s"});
    asking(&room, &fake, 2, short).await;
    let agents = agents(&room, 2).await;
    let at_once = |text: &'static str| {
        let calls: Vec<_> = (0..8).map(|n| promote(&agents[n % 2], text)).collect();
        async {
            let mut answers = Vec::new();
            for call in calls {
                answers.push(call.await.unwrap());
            }
            answers
        }
    };
    let answers = at_once("v7").await;
    let made = &listed(&room, 1).await[0];
    let name = made.name_any();
    assert!(
        answers.iter().all(|(error, text)| *error
            && text.starts_with("Approval pending")
            && text.contains(&name)),
        "{answers:?}"
    );
    assert_eq!(made.spec.grant, "anonymous");
    assert_eq!(made.spec.arguments_preview, r#"{"text":"v7"}"#);
    assert_eq!(
        (made.spec.policy.as_str(), made.spec.rule.as_str()),
        ("p", "ask")
    );
    assert_eq!(made.labels()["portcullis.dev/server"], SERVER);
    assert!(
        name.starts_with("mlflow-") && name.ends_with("-0"),
        "{name}"
    );
    assert_eq!(fake.calls(), 0);

    decide(&room, &name, "Approved", None).await;
    let answers = at_once("v7").await;
    let used = phase_is(&room, &name, Phase::Consumed).await;
    let passed = answers.iter().filter(|(error, _)| !error).count();
    assert_eq!((passed, fake.calls()), (1, 1), "{answers:?}");
    // The object names the decision of the call that used it, as the audit log has it.
    let by = used.status.unwrap().consumed_by.unwrap();
    let mut logged = String::new();
    for pod in room.gateway_pods(SERVER).await {
        logged += &room.kubelet().log(room.name(), &pod.name_any(), "gateway");
    }
    let consumed: Vec<&str> = logged
        .lines()
        .filter(|line| line.contains(r#""step":"consumed""#))
        .collect();
    assert!(
        matches!(consumed.as_slice(), [one] if one.contains(&format!(r#""decisionId":"{by}""#))),
        "{by}: {consumed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_goes_on_as_soon_as_a_person_has_decided_and_others_never_wait() {
    let Some(room) = Room::open("held calls").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    asking(&room, &fake, 2, held()).await;
    let agents = agents(&room, 2).await;
    let asked = promote(&agents[0], "v7");
    let name = listed(&room, 1).await[0].name_any();
    assert_eq!(call(&agents[0], "get").await, Ok(()));
    assert_eq!(fake.calls(), 1);
    let decided = Instant::now();
    decide(&room, &name, "Approved", None).await;
    let (error, text) = asked.await.unwrap();
    println!("from the decision to the answer: {:?}", decided.elapsed());
    assert!(!error, "{text}");
    assert_eq!(fake.calls(), 2);
    phase_is(&room, &name, Phase::Consumed).await;
    // The same call again, at the other gateway, is another request.
    let again = promote(&agents[1], "v7");
    let all = listed(&room, 2).await;
    assert_eq!(all[1].name_any(), name.replace("-0", "-1"));
    decide(&room, &all[1].name_any(), "Denied", Some("one was enough")).await;
    for answer in [again, promote(&agents[0], "v7")] {
        let (error, text) = answer.await.unwrap();
        assert!(
            error && text.contains("was refused: one was enough"),
            "{text}"
        );
    }
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_after_it_used_an_approval_never_lets_it_be_used_again() {
    let Some(room) = Room::open("gateways that are killed").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    asking(&room, &fake, 1, held()).await;
    let mut executed = 0;
    for round in 0..3 {
        let agent = room.living_agent(SERVER).await;
        let asked = promote(&agent, &format!("round {round}"));
        let all = listed(&room, round + 1).await;
        let open = all
            .iter()
            .find(|one| one.phase_at(Timestamp::now()) == Phase::Pending)
            .unwrap();
        let name = open.name_any();
        let pod = room.gateway_pods(SERVER).await.remove(0).name_any();
        decide(&room, &name, "Approved", None).await;
        phase_is(&room, &name, Phase::Consumed).await;
        room.kubelet().crash(room.name(), &pod);
        asked.abort();
        executed = fake.calls().max(executed);
        assert!(executed <= round + 1);
    }
    // Each is used up, and a repeated call is another request.
    let agent = room.living_agent(SERVER).await;
    let before = fake.calls();
    let again = promote(&agent, "round 2");
    let all = listed(&room, 4).await;
    let phases: Vec<Phase> = all
        .iter()
        .map(|one| one.phase_at(Timestamp::now()))
        .collect();
    assert_eq!(
        phases
            .iter()
            .filter(|phase| **phase == Phase::Consumed)
            .count(),
        3
    );
    assert_eq!(
        phases
            .iter()
            .filter(|phase| **phase == Phase::Pending)
            .count(),
        1
    );
    assert_eq!(fake.calls(), before);
    again.abort();
}

/// The name that the same call asks under once the first is taken.
pub(super) fn next_of(first: &str) -> String {
    format!("{}-1", first.strip_suffix("-0").unwrap())
}

/// Whoever could write as the gateway does; the gateway itself would find nothing of this odd.
pub(super) async fn forge(room: &Room, object: &McpApproval) {
    let gateway = room
        .cluster
        .impersonate_account(room.name(), "mlflow-gateway");
    let made: Api<McpApproval> = Api::namespaced(gateway, room.name());
    let mut new = McpApproval::new(&object.name_any(), object.spec.clone());
    new.metadata.labels = object.metadata.labels.clone();
    new.spec.decisions.clear();
    made.create(&PostParams::default(), &new).await.unwrap();
    decide(room, &object.name_any(), "Approved", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_object_that_is_not_this_very_call_is_not_believed() {
    let Some(room) = Room::open("forged approvals").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    let short = json!({"expiresAfter": "10m", "waitUpTo": "1s"});
    asking(&room, &fake, 1, short).await;
    let agent = room.agent(SERVER).await;
    let (error, text) = promote(&agent, "v7").await.unwrap();
    assert!(error && text.starts_with("Approval pending"), "{text}");
    let real = listed(&room, 1).await.remove(0);
    let name = real.name_any();
    let all = approvals(&room);
    let mut other = real.clone();
    other.spec.arguments_digest = format!("sha256:{}", "0".repeat(64));
    let mut shown = real.clone();
    shown.spec.arguments_preview = r#"{"text":"harmless"}"#.to_owned();
    let mut grant = real.clone();
    grant.spec.grant = "key:other".to_owned();
    let mut eternal = real.clone();
    let late = Timestamp::now() + SignedDuration::from_hours(5);
    eternal.spec.expires_at.0 = late;
    for (what, forged) in [
        ("another digest", other),
        ("another preview", shown),
        ("another grant", grant),
        ("one that never expires", eternal),
    ] {
        all.delete(&name, &DeleteParams::default()).await.unwrap();
        forge(&room, &forged).await;
        let (error, text) = promote(&agent, "v7").await.unwrap();
        assert!(
            error && text.starts_with("Approval pending"),
            "{what}: {text}"
        );
        assert!(text.contains(&next_of(&name)), "{what}: {text}");
        assert_eq!(fake.calls(), 0, "{what}");
        let next = next_of(&name);
        all.delete(&next, &DeleteParams::default()).await.unwrap();
    }
    // A decision that was copied onto another call's request is for that call: the name is free for
    // this one again.
    all.delete(&name, &DeleteParams::default()).await.unwrap();
    let held = eventually("the request is made again", || async {
        let (_, text) = promote(&agent, "v7").await.unwrap();
        match text.contains(&name) {
            true => Ok(text),
            false => Err(text),
        }
    })
    .await;
    assert!(held.starts_with("Approval pending"), "{held}");
    decide(&room, &name, "Approved", None).await;
    eventually("it is made once", || async {
        match promote(&agent, "v7").await.unwrap() {
            (false, _) => Ok(()),
            (true, text) => Err(text),
        }
    })
    .await;
    assert_eq!(fake.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_withdrawn_and_what_runs_out_is_not_used() {
    let Some(room) = Room::open("approvals that end").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    asking(
        &room,
        &fake,
        1,
        json!({"expiresAfter": "5s", "waitUpTo": "60s"}),
    )
    .await;
    let agent = room.agent(SERVER).await;
    // Held until it runs out.
    let (error, text) = promote(&agent, "late").await.unwrap();
    assert!(error && text.starts_with("Approval expired"), "{text}");
    let late = listed(&room, 1).await.remove(0).name_any();
    decide(&room, &late, "Approved", None).await;
    let again = promote(&agent, "late");
    let all = listed(&room, 2).await;
    assert_eq!(all[1].name_any(), late.replace("-0", "-1"));
    let (error, text) = again.await.unwrap();
    assert!(error && text.starts_with("Approval expired"), "{text}");
    assert_eq!(fake.calls(), 0);
    // The session ends.
    let session = room.agent(SERVER).await;
    let asked = promote(&session, "given up");
    let all = listed(&room, 3).await;
    let given_up = all
        .iter()
        .find(|one| one.spec.arguments_preview.contains("given up"))
        .unwrap();
    session.send("DELETE", None).await;
    phase_is(&room, &given_up.name_any(), Phase::Withdrawn).await;
    asked.abort();
    assert_eq!(fake.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_only_calls_that_need_approval_are_refused_with_a_time_to_repeat_them()
 {
    let Some(room) = Room::alone("approvals without an API server").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    asking(
        &room,
        &fake,
        1,
        json!({"expiresAfter": "10m", "waitUpTo": "1s"}),
    )
    .await;
    // Past the Service, which the node keeps only while it hears from the API server.
    let agent = agents(&room, 1).await.remove(0);
    let (_, text) = promote(&agent, "before").await.unwrap();
    assert!(text.starts_with("Approval pending"), "{text}");
    let name = listed(&room, 1).await.remove(0).name_any();
    let control_plane = room.cluster.control_plane().unwrap();
    control_plane.kill(Program::ApiServer);
    for what in ["before", "meanwhile"] {
        let text = eventually("the gateway notices", || async {
            let reply = agent.call("promote", json!({ "text": what })).await;
            let (_, text) = reply.tool();
            match text.starts_with("Approval unavailable") {
                true => Ok(reply.json()["result"].to_string()),
                false => Err(text),
            }
        })
        .await;
        assert!(
            text.contains(r#""portcullis.dev/retryAfterMs":10000"#),
            "{text}"
        );
        assert!(text.contains("Repeat it unchanged in 10 s"), "{text}");
    }
    assert_eq!(call(&agent, "get").await, Ok(()));
    assert_eq!(fake.calls(), 1);
    control_plane.start_again(Program::ApiServer);
    eventually("it is asked for again", || async {
        let (_, text) = promote(&agent, "before").await.unwrap();
        match text.contains(&name) {
            true => Ok(()),
            false => Err(text),
        }
    })
    .await;
    decide(&room, &name, "Approved", None).await;
    eventually("it is made once", || async {
        match promote(&agent, "before").await.unwrap() {
            (false, _) => Ok(()),
            (true, text) => Err(text),
        }
    })
    .await;
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_at_most_twenty_open_requests_and_giving_them_up_makes_no_room_for_more() {
    let Some(room) = Room::open("many open requests").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    asking(
        &room,
        &fake,
        1,
        json!({"expiresAfter": "10m", "waitUpTo": "1ms"}),
    )
    .await;
    let agent = room.agent(SERVER).await;
    for n in 0..20 {
        let (_, text) = promote(&agent, &format!("n{n}")).await.unwrap();
        assert!(text.starts_with("Approval pending"), "{text}");
    }
    let full = "20 calls of this caller already wait for approval";
    let (_, text) = promote(&agent, "more").await.unwrap();
    assert!(text.contains(full), "{text}");
    agent.send("DELETE", None).await;
    for one in listed(&room, 20).await {
        phase_is(&room, &one.name_any(), Phase::Withdrawn).await;
    }
    let agent = room.agent(SERVER).await;
    let (_, text) = promote(&agent, "more").await.unwrap();
    assert!(text.contains(full), "{text}");
    tokio::time::timeout(Duration::from_secs(30), listed(&room, 20))
        .await
        .unwrap();
}

/// The kubeconfig of a person, and the program under one of its names.
fn person(room: &Room, user: &str, folder: &std::path::Path) -> std::path::PathBuf {
    let text = std::fs::read_to_string(room.cluster.admin_kubeconfig()).unwrap();
    let file = folder.join(format!("{user}.kubeconfig"));
    let own = "user: { client-certificate:";
    assert!(text.contains(own), "{text}");
    let acting = format!("user: {{ as: {user}, as-groups: [system:masters], client-certificate:");
    std::fs::write(&file, text.replacen(own, &acting, 1)).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_decide_on_the_command_line_and_as_a_plugin_of_kubectl() {
    let Some(room) = Room::open("deciding in a cluster").await else {
        return;
    };
    let fake = Fake::start(&["promote", "get"]).await;
    let by_two = json!({"expiresAfter": "10m", "waitUpTo": "80s", "approvers": 2});
    asking(&room, &fake, 1, by_two).await;
    let agent = room.agent(SERVER).await;
    let asked = promote(&agent, "v7");
    let made = listed(&room, 1).await.remove(0);
    let name = made.name_any();
    let folder = tempfile::tempdir().unwrap();
    let (alice, bob) = (
        person(&room, "alice", folder.path()),
        person(&room, "bob", folder.path()),
    );
    let own = std::path::PathBuf::from(env!("CARGO_BIN_EXE_portcullis"));
    std::os::unix::fs::symlink(&own, folder.path().join("kubectl-portcullis")).unwrap();
    let run = |program: &std::path::Path, kubeconfig: &std::path::Path, arguments: &[&str]| {
        let path = std::env::join_paths([folder.path(), program.parent().unwrap()]).unwrap();
        let output = std::process::Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .env("PATH", path)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let place = room.name();
    let digest = &made.spec.arguments_digest[.."sha256:".len() + 16];
    let (code, shown, told) = run(&own, &alice, &["approvals", "show", &name, "-n", place]);
    assert_eq!(code, Some(0), "{told}");
    let lines = [
        format!("Approval:  {name}"),
        "Caller:    anonymous".to_owned(),
        "Tool:      promote".to_owned(),
        "by policy p, rule ask".to_owned(),
        "Needs:     2 people; 0 so far".to_owned(),
        "text: \"v7\"".to_owned(),
        "expires in ".to_owned(),
        format!(
            "To approve it: portcullis approvals approve {name} -n {place} --yes --digest {digest}"
        ),
    ];
    for line in lines {
        assert!(shown.contains(&line), "{line}: {shown}");
    }
    let mut watch = std::process::Command::new(&own)
        .args(["approvals", "watch", "-n", place])
        .env("KUBECONFIG", &alice)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut news = std::io::BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut told_of = |state: &str| {
        let line = format!("{place}/{name}  {state}  promote for anonymous  {{\"text\":\"v7\"}}");
        let mut all = Vec::new();
        while all.last() != Some(&line) {
            all.push(
                news.next()
                    .unwrap_or_else(|| panic!("{line}: {all:?}"))
                    .unwrap(),
            );
        }
    };
    told_of("Pending (0 of 2)");
    // As `show` says.
    let approve = [
        "approvals",
        "approve",
        &name,
        "-n",
        place,
        "--yes",
        "--digest",
        digest,
    ];
    let (code, said, told) = run(&own, &alice, &approve);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(
        said,
        format!("{name} approved by alice: promote for anonymous; it waits for 1 more\n")
    );
    let (code, _, told) = run(&own, &alice, &approve);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("you have decided"), "{told}");
    assert_eq!(fake.calls(), 0);
    told_of("Pending (1 of 2)");
    // The other person by kubectl, which finds the plugin in PATH.
    let kubectl = room.cluster.program("kubectl");
    let (code, listed, told) = run(
        &kubectl,
        &bob,
        &[
            "portcullis",
            "approvals",
            "list",
            "-A",
            "--pending",
            "-o",
            "name",
        ],
    );
    assert_eq!(code, Some(0), "{told}");
    assert!(
        listed.contains(&format!("mcpapproval.portcullis.dev/{name}\n")),
        "{listed}"
    );
    let (_, table, _) = run(&kubectl, &bob, &["portcullis", "approvals", "list", "-A"]);
    assert!(
        table
            .lines()
            .any(|line| line.starts_with(place) && line.contains("alice")),
        "{table}"
    );
    let mut plugin = vec!["portcullis"];
    plugin.extend(approve);
    let (code, said, told) = run(&kubectl, &bob, &plugin);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(
        said,
        format!("{name} approved by bob: promote for anonymous\n")
    );
    let (error, text) = asked.await.unwrap();
    assert!(!error, "{text}");
    assert_eq!(fake.calls(), 1);
    let used = phase_is(&room, &name, Phase::Consumed).await;
    let by: Vec<&str> = used
        .spec
        .decisions
        .iter()
        .map(|one| one.by.as_str())
        .collect();
    assert_eq!(by, ["alice", "bob"]);
    told_of("Consumed (2 of 2)");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let (code, _, told) = run(&own, &bob, &["approvals", "deny", &name, "-n", place]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("it is Consumed"), "{told}");
}
