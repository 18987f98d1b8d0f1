//! Exact over any window, whatever happens to gateways and to the server that counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use portcullis::api::policy::Scope;
use portcullis::gateway::counters::{Cause, Exhausted, SharedCounters, SharedReservation};
use portcullis::policy::decision::{Charge, Counter, RuleId};
use redis::AsyncCommands as _;
use rustix::process::Signal;

use super::server::Redis;

const UID: &str = "0b3c9f9e-7d3d-4a8e-8a57-6d2f7f0a3c11";

pub(super) fn charge(counter: &str, value: &str, max: u64, window: Duration, cost: u64) -> Charge {
    let rule = RuleId {
        namespace: "ml".to_owned(),
        policy: "p".to_owned(),
        rule: counter.to_owned(),
        qualified: false,
        uid: Arc::from(""),
    };
    Charge {
        counter: Arc::new(Counter {
            server: UID.into(),
            namespace: "ml".to_owned(),
            policy: "p".to_owned(),
            name: counter.to_owned(),
            max,
            window,
            window_text: format!("{}ms", window.as_millis()),
            scope: Scope::Grant,
            shadow: false,
        }),
        scope: Scope::Grant,
        value: value.to_owned(),
        cost,
        by: Arc::new(rule),
        reason: None,
    }
}

fn shadow(mut charge: Charge) -> Charge {
    let mut counter = (*charge.counter).clone();
    counter.shadow = true;
    charge.counter = Arc::new(counter);
    charge
}

pub(super) const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn gateway(url: &str) -> Arc<SharedCounters> {
    Arc::new(SharedCounters::connect(UID, url.as_bytes(), None, false))
}

pub(super) async fn take(
    of: &SharedCounters,
    charge: &Charge,
) -> Result<SharedReservation, Exhausted> {
    let taken = of.reserve("key:ci", std::slice::from_ref(charge)).await;
    taken.map(|(taken, _)| taken)
}

/// Asks until it is so.
pub(super) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn never_more_than_max_in_any_window_of_the_servers_time() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let window = Duration::from_millis(250);
    let max = 7;
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..6_u64 {
        // Three gateways, each of which calls twice at once.
        let counters = gateway(&redis.url());
        let mut clock = redis.connect().await;
        tasks.spawn(async move {
            let mut now = async || -> u64 {
                let (seconds, micros): (u64, u64) =
                    redis::cmd("TIME").query_async(&mut clock).await.unwrap();
                seconds * 1_000_000 + micros
            };
            let (mut passed, mut refused) = (Vec::new(), 0);
            let started = now().await;
            loop {
                let before = now().await;
                if before > started + 2_500_000 {
                    return (passed, refused);
                }
                let cost = 1 + (before + worker) % 3;
                match take(&counters, &charge("c", "key:ci", max, window, cost)).await {
                    Ok(taken) if before % 5 == 0 => counters.give_back(taken),
                    Ok(_) => passed.push((before, now().await, cost)),
                    Err(why) => {
                        assert!(matches!(why.cause, Cause::Used(_)), "{why:?}");
                        refused += 1;
                    }
                }
            }
        });
    }
    let (mut passed, mut refused) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (some, no) = done.unwrap();
        passed.extend(some);
        refused += no;
    }
    assert!(refused > 0);
    let total: u64 = passed.iter().map(|(_, _, cost)| cost).sum();
    assert!(
        total > 3 * max,
        "windows pass, and units come back: {total}"
    );
    for (start, ..) in &passed {
        // Certainly taken within one window: asked for after its start, answered before its end.
        let end = start + window.as_micros() as u64;
        let within = passed
            .iter()
            .filter(|(before, after, _)| start <= before && *after < end);
        let sum: u64 = within.map(|(_, _, cost)| cost).sum();
        assert!(sum <= max, "{sum} units in the window from {start}");
    }
}

#[tokio::test]
async fn all_limits_of_a_call_are_counted_or_none_and_the_longest_wait_is_reported() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let counters = gateway(&redis.url());
    let minute = Duration::from_secs(60);
    let (short, long) = (
        charge("short", "a", 1, minute, 1),
        charge("long", "a", 1, HOUR, 1),
    );
    let both = [short.clone(), long.clone()];
    let (first, _) = counters.reserve("g", &both).await.unwrap();
    let refused = counters.reserve("g", &both).await.unwrap_err();
    assert_eq!(refused.by.rule, "long");
    assert!(
        refused.retry_after() > Some(Duration::from_secs(3_500)),
        "{refused:?}"
    );
    counters.give_back(first);
    drop(
        until("the units come back", async || {
            take(&counters, &long).await.ok()
        })
        .await,
    );
    assert!(counters.reserve("g", &both).await.is_err());
    assert!(
        counters
            .look("g", std::slice::from_ref(&short))
            .await
            .is_ok(),
        "a refused call uses up nothing"
    );
    assert!(
        counters
            .look("g", std::slice::from_ref(&short))
            .await
            .is_ok(),
        "nor does a look"
    );
    let never = take(&counters, &charge("c", "a", 5, minute, 6))
        .await
        .unwrap_err();
    assert_eq!(never.retry_after(), None);
    // What was used counts under other settings too.
    let _kept = take(&counters, &charge("c", "a", 5, minute, 5))
        .await
        .unwrap();
    assert!(
        take(&counters, &charge("c", "a", 9, HOUR, 5))
            .await
            .is_err()
    );
    assert!(take(&counters, &charge("c", "a", 9, HOUR, 4)).await.is_ok());
    let lowered = take(&counters, &charge("c", "a", 2, HOUR, 1))
        .await
        .unwrap_err();
    assert!(
        lowered.retry_after() > Some(Duration::from_secs(3_500)),
        "{lowered:?}"
    );
}

#[tokio::test]
async fn shadow_limits_are_counted_in_the_same_round_trip_and_refuse_nothing() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let counters = gateway(&redis.url());
    let charges = [
        charge("c", "g", 2, HOUR, 1),
        shadow(charge("s", "g", 1, HOUR, 1)),
    ];
    let (_, audited) = counters.reserve("g", &charges).await.unwrap();
    assert_eq!(audited, None);
    let (_, audited) = counters.reserve("g", &charges).await.unwrap();
    assert_eq!(audited.unwrap().rule, "s");
    let refused = counters.reserve("g", &charges).await.unwrap_err();
    assert_eq!(refused.by.rule, "c");
    let mut connection = redis.connect().await;
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut connection)
        .await
        .unwrap();
    let scripts = stats
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha:"))
        .unwrap();
    // The first one loads the script.
    assert!(scripts.contains("calls=4,"), "{scripts}");
}

#[tokio::test]
async fn the_use_of_the_fullest_key_of_each_counter_is_shown() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let counters = gateway(&redis.url());
    let shown = |name: &str| {
        let name = ("ml/p".to_owned(), name.to_owned());
        counters.ratios().get(&name).copied()
    };
    let (a, b) = (charge("c", "a", 4, HOUR, 1), charge("c", "b", 4, HOUR, 3));
    assert_eq!(shown("c"), None);
    let taken = take(&counters, &a).await.unwrap();
    assert_eq!(shown("c"), Some(0.25));
    let _ = take(&counters, &b).await.unwrap();
    assert_eq!(shown("c"), Some(0.75));
    // What another gateway counted for the same key is seen with the next call, also a refused one.
    let other = gateway(&redis.url());
    let _ = take(&other, &charge("c", "b", 4, HOUR, 1)).await.unwrap();
    assert_eq!(shown("c"), Some(0.75));
    take(&counters, &b).await.unwrap_err();
    assert_eq!(shown("c"), Some(1.0));
    // Two limits of one call, one of them in the shadow, which is not shown.
    let both = [
        charge("d", "a", 2, HOUR, 1),
        shadow(charge("s", "a", 2, HOUR, 1)),
    ];
    let _ = counters.reserve("key:ci", &both).await.unwrap();
    assert_eq!((shown("d"), shown("s")), (Some(0.5), None));
    counters.give_back(taken);
}

#[tokio::test]
async fn one_caller_cannot_fill_the_server_and_what_counts_nothing_goes_by_itself() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let counters = gateway(&redis.url());
    let call = |n: usize| {
        let mut charge = charge("repeats", &n.to_string(), 2, HOUR, 1);
        charge.scope = Scope::Call;
        charge
    };
    for n in 0..1_000 {
        assert!(counters.reserve("busy", &[call(n)]).await.is_ok(), "{n}");
    }
    let refused = counters.reserve("busy", &[call(1_000)]).await.unwrap_err();
    assert_eq!(refused.cause, Cause::Capacity);
    assert!(
        counters.reserve("busy", &[call(7)]).await.is_ok(),
        "known keys still count"
    );
    let writes = charge("writes", "busy", 2, HOUR, 1);
    assert!(
        counters.reserve("busy", &[writes]).await.is_ok(),
        "as do its other limits"
    );
    assert!(counters.reserve("calm", &[call(1_000)]).await.is_ok());
    let mut connection = redis.connect().await;
    let keys: Vec<String> = connection.keys("*").await.unwrap();
    assert_eq!(keys.len(), 1_002 + 4);
    for key in keys {
        assert!(key.starts_with(&format!("portcullis:{{{UID}}}:")), "{key}");
        assert!(!key.contains("repeats") && !key.contains("busy"), "{key}");
        let left: i64 = connection.pttl(&key).await.unwrap();
        assert!((3_500_000..=3_601_000).contains(&left), "{key}: {left}");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_and_started_again_has_forgotten_nothing() {
    // Other settings answer before the disk has what they answer, if the disk is slow.
    let Some(mut redis) = Redis::start(&["--appendfsync", "always"]) else {
        return;
    };
    let counters = gateway(&redis.url());
    let limit = charge("c", "g", 3, HOUR, 1);
    // On a slow disk an answer may be late, and then its unit may be used up unseen.
    let mut passed = 0;
    until("a unit is taken", async || {
        take(&counters, &limit).await.ok().map(drop)
    })
    .await;
    passed += 1;
    redis.kill();
    let refused = until("it is missed", async || take(&counters, &limit).await.err()).await;
    assert!(
        matches!(refused.cause, Cause::Unavailable(_)),
        "{refused:?}"
    );
    until("why is said", async || counters.trouble()).await;
    let why = counters.trouble().unwrap();
    assert!(why.contains(&format!("127.0.0.1:{}", redis.port)), "{why}");
    refused_without_a_wait(&counters, &limit);
    let open = Arc::new(SharedCounters::connect(
        UID,
        redis.url().as_bytes(),
        None,
        true,
    ));
    assert!(take(&open, &limit).await.is_ok(), "onUnavailable: Allow");
    redis.again();
    passed += units_left(&counters, &limit).await;
    assert!(passed <= 3, "{passed} of 3 were taken");
    assert_eq!(counters.trouble(), None);
}

/// Each of many calls is refused when it is first polled.
fn refused_without_a_wait(counters: &SharedCounters, limit: &Charge) {
    for n in 0..50 {
        let refused = take(counters, limit).now_or_never();
        let refused = refused.unwrap_or_else(|| panic!("call {n} waits"));
        assert!(refused.is_err(), "{n}");
    }
}

/// Takes one unit after another until they are used up, and returns how many there were.
async fn units_left(counters: &SharedCounters, limit: &Charge) -> u64 {
    let mut passed = 0;
    until("it answers again", async || {
        match take(counters, limit).await {
            Ok(_) => passed += 1,
            Err(why) if matches!(why.cause, Cause::Used(_)) => return Some(()),
            Err(why) => assert!(matches!(why.cause, Cause::Unavailable(_)), "{why:?}"),
        }
        None
    })
    .await;
    passed
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_up_no_call_once_that_is_known() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let counters = gateway(&redis.url());
    let limit = charge("c", "g", 3, HOUR, 1);
    until("a unit is taken", async || {
        take(&counters, &limit).await.ok().map(drop)
    })
    .await;
    redis.signal(Signal::STOP);
    let refused = until("it is missed", async || take(&counters, &limit).await.err()).await;
    assert!(
        matches!(refused.cause, Cause::Unavailable(_)),
        "{refused:?}"
    );
    refused_without_a_wait(&counters, &limit);
    assert!(counters.trouble().unwrap().contains("did not answer"));
    redis.signal(Signal::CONT);
    let passed = 1 + units_left(&counters, &limit).await;
    assert!(passed <= 3, "{passed} of 3 were taken");
}

#[tokio::test]
async fn a_password_is_needed_and_never_shown() {
    let Some(redis) = Redis::start(&["--requirepass", "hunter2"]) else {
        return;
    };
    let limit = charge("c", "g", 3, HOUR, 1);
    for url in [
        redis.url(),
        format!("redis://:wrong-secret@127.0.0.1:{}", redis.port),
    ] {
        let counters = gateway(&url);
        assert!(take(&counters, &limit).await.is_err());
        let why = counters.trouble().unwrap();
        assert!(why.contains("refuses the user or password"), "{why}");
        assert!(!why.contains("secret"), "{why}");
    }
    let counters = gateway(&format!("redis://:hunter2@127.0.0.1:{}/3", redis.port));
    assert!(take(&counters, &limit).await.is_ok());
    let unusable = gateway("redis//hunter2");
    assert!(take(&unusable, &limit).await.is_err());
    let why = unusable.trouble().unwrap();
    assert!(
        why.contains("urlSecretRef") && !why.contains("hunter2"),
        "{why}"
    );
}

#[tokio::test]
async fn a_full_server_and_a_replica_refuse_in_words() {
    let Some(primary) = Redis::start(&["--maxmemory-policy", "noeviction"]) else {
        return;
    };
    let limit = charge("c", "g", 3, HOUR, 1);
    let counters = gateway(&primary.url());
    drop(take(&counters, &limit).await.unwrap());
    let mut connection = primary.connect().await;
    let set = async |connection: &mut redis::aio::MultiplexedConnection, bytes: &str| {
        let mut command = redis::cmd("CONFIG");
        let command = command.arg("SET").arg("maxmemory").arg(bytes);
        command.query_async::<()>(connection).await.unwrap();
    };
    set(&mut connection, "1").await;
    let refused = take(&counters, &limit).await.unwrap_err();
    assert!(
        matches!(refused.cause, Cause::Unavailable(_)),
        "{refused:?}"
    );
    assert!(counters.trouble().unwrap().contains("memory is full"));
    set(&mut connection, "0").await;
    assert!(take(&counters, &limit).await.is_ok());
    assert_eq!(counters.trouble(), None);
    let Some(replica) = Redis::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)])
    else {
        return;
    };
    let mut of_replica = replica.connect().await;
    until("it has a copy", async || {
        let keys: Vec<String> = of_replica.keys("*").await.unwrap_or_default();
        (!keys.is_empty()).then_some(())
    })
    .await;
    let second = gateway(&replica.url());
    assert!(take(&second, &limit).await.is_err());
    until("the trouble is reported", async || {
        take(&second, &limit).await.err()?;
        second.trouble().filter(|why| why.contains("replica"))
    })
    .await;
    // The replica becomes the primary, with all that had reached it.
    redis::cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .query_async::<()>(&mut of_replica)
        .await
        .unwrap();
    drop(until("it counts", async || take(&second, &limit).await.ok()).await);
    let refused = take(&second, &limit).await.unwrap_err();
    assert!(matches!(refused.cause, Cause::Used(_)), "{refused:?}");
}

/// TLS in front of the server, with a certificate that is its own CA.
async fn behind_tls(port: u16) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outside = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut agent) = acceptor.accept(stream).await else {
                    return;
                };
                let mut redis = tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .unwrap();
                let _ = tokio::io::copy_bidirectional(&mut agent, &mut redis).await;
            });
        }
    });
    (outside, made.cert.pem())
}

#[tokio::test]
async fn over_tls_the_server_must_be_the_one_that_the_ca_vouches_for() {
    let Some(redis) = Redis::start(&["--requirepass", "hunter2"]) else {
        return;
    };
    let (port, ca) = behind_tls(redis.port).await;
    let (_, other_ca) = behind_tls(redis.port).await;
    let limit = charge("c", "g", 3, HOUR, 1);
    let connect = |host: &str, ca: Option<&str>| {
        let url = format!("rediss://:hunter2@{host}:{port}");
        Arc::new(SharedCounters::connect(
            UID,
            url.as_bytes(),
            ca.map(str::as_bytes),
            false,
        ))
    };
    assert!(take(&connect("localhost", Some(&ca)), &limit).await.is_ok());
    for (host, ca) in [
        ("127.0.0.1", Some(&*ca)),
        ("localhost", Some(&*other_ca)),
        ("localhost", None),
    ] {
        let counters = connect(host, ca);
        assert!(take(&counters, &limit).await.is_err());
        let why = counters.trouble().unwrap();
        assert!(
            why.contains("certificate") && !why.contains("hunter2"),
            "{why}"
        );
    }
}
