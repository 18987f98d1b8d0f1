use super::*;
use crate::scripted_api::{Script, answer, echo, refusal};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, PostParams};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::time::Instant;

#[test]
fn nobody_waits_longer_than_a_while_for_the_api_server() {
    let after = |asked: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, http::HeaderValue::from_static(asked));
        patience(&mut headers);
        headers[RETRY_AFTER].to_str().unwrap().to_owned()
    };
    assert_eq!((after("1").as_str(), after("30").as_str()), ("1", "30"));
    assert_eq!(after("3600"), "30");
    assert_eq!(after("soon"), "soon");
}

#[test]
fn requests_are_counted_by_what_they_do() {
    let said = |method: Method, uri: &str| {
        labels(&method, &uri.parse().unwrap())
            .map(|labels| format!("{} {}", labels.verb, labels.resource))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        said(Method::GET, "/api/v1/pods?watch=true&x=1"),
        some("watch pods")
    );
    assert_eq!(
        said(
            Method::GET,
            "/apis/portcullis.dev/v1alpha1/mcpservers?limit=500"
        ),
        some("list mcpservers")
    );
    assert_eq!(
        said(
            Method::PUT,
            "/apis/portcullis.dev/v1alpha1/namespaces/ml/mcpservers/a/status"
        ),
        some("update mcpservers/status")
    );
    assert_eq!(
        said(Method::PATCH, "/apis/apps/v1/namespaces/ml/deployments/a"),
        some("patch deployments")
    );
    assert_eq!(
        said(Method::POST, "/api/v1/namespaces/ml/secrets"),
        some("create secrets")
    );
    assert_eq!(said(Method::GET, "/version"), None);
}

/// The operator's clients over a script, as `connect` makes them.
fn clients(script: &Script, fence: &WriteFence) -> (Clients, Metrics) {
    let metrics = Metrics::register(&mut Registry::default());
    let fenced = Fenced {
        inner: script.service(),
        metrics: metrics.clone(),
        fence: fence.clone(),
    };
    let once = Client::new(fenced, "ml");
    let again = patient(once.clone(), "ml".to_owned());
    (Clients { again, once }, metrics)
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "ml")
}

const PATH: &str = "/api/v1/namespaces/ml/configmaps";

fn busy(code: u16) -> crate::scripted_api::Exchange {
    answer(Method::GET, &[PATH], code, refusal(code, "Busy"))
}

fn got() -> crate::scripted_api::Exchange {
    answer(
        Method::GET,
        &[PATH],
        200,
        json!({"metadata": {"name": "a"}}),
    )
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_says_when_is_asked_again_then_and_not_before() {
    let fence = WriteFence::default();
    for (asked, waited) in [(1, 1), (7, 7), (3_600, MAX_RETRY_AFTER_SECONDS)] {
        let script = Script::new(vec![busy(429).retry_after(asked), got()]);
        let (clients, _) = clients(&script, &fence);
        let started = Instant::now();
        maps(&clients.again).get("a").await.unwrap();
        let waited = Duration::from_secs(waited);
        let elapsed = started.elapsed();
        assert!(
            elapsed >= waited && elapsed < waited + RETRY_DELAYS.1,
            "{asked}: {elapsed:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_busy_is_asked_again_for_a_while_and_other_failures_are_told_at_once()
{
    let fence = WriteFence::default();
    let script = Script::new(vec![busy(429), busy(503), busy(504), got()]);
    let (patient, _) = clients(&script, &fence);
    maps(&patient.again).get("a").await.unwrap();
    let script = Script::new((0..=MAX_RETRIES).map(|_| busy(503)).collect());
    let (patient, _) = clients(&script, &fence);
    let error = maps(&patient.again).get("a").await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 503));
    // The Lease has its own rhythm, and a failure of the server's is none of its being busy.
    for (code, client) in [(429, "once"), (500, "again")] {
        let script = Script::new(vec![busy(code)]);
        let (both, _) = clients(&script, &fence);
        let client = if client == "once" {
            &both.once
        } else {
            &both.again
        };
        assert!(maps(client).get("a").await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_lead_reads_and_writes_its_lease_and_nothing_else() {
    let fence = WriteFence::default();
    let script = Script::new(vec![
        got(),
        echo(Method::POST, &["/namespaces/ops/leases"]),
        echo(Method::POST, &[PATH]),
    ]);
    let (both, metrics) = clients(&script, &fence);
    let (params, map) = (PostParams::default(), ConfigMap::default());
    maps(&both.again).get("a").await.unwrap();
    let error = maps(&both.again).create(&params, &map).await.unwrap_err();
    assert!(format!("{error:?}").contains("NotLeader"), "{error:?}");
    let leases: Api<Lease> = Api::namespaced(both.once.clone(), "ops");
    leases.create(&params, &Lease::default()).await.unwrap();
    fence.open_until(Instant::now() + Duration::from_secs(5));
    maps(&both.again).create(&params, &map).await.unwrap();
    let counted = |verb: &'static str, resource: &str| {
        let resource = resource.to_owned();
        metrics
            .requests
            .get_or_create(&RequestLabels { verb, resource })
            .get()
    };
    assert_eq!(counted("create", "configmaps"), 1);
    assert_eq!(
        (counted("get", "configmaps"), counted("create", "leases")),
        (1, 1)
    );
    // Deposed meanwhile: what waited for the API server is not sent.
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(maps(&both.again).create(&params, &map).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn one_list_is_read_after_the_other() {
    let list = || {
        answer(
            Method::GET,
            &[PATH],
            200,
            json!({"metadata": {}, "items": []}),
        )
    };
    let script = Script::new(vec![list(), list()]);
    let (both, _) = clients(&script, &WriteFence::default());
    let (one, other) = (maps(&both.again), maps(&both.again));
    let params = ListParams::default();
    let (one, other) = tokio::join!(one.list(&params), other.list(&params));
    assert!(one.is_ok() && other.is_ok());
}

#[tokio::test]
async fn the_clients_of_a_cluster_speak_to_its_api_server_counted_and_fenced() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 2_048];
        let read = stream.read(&mut asked).await.unwrap();
        let body = r#"{"metadata": {"name": "a"}}"#;
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
        let answer = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&asked[..read]).into_owned()
    });
    let metrics = Metrics::register(&mut Registry::default());
    let config = Config::new(url.parse().unwrap());
    let fence = WriteFence::default();
    let both = of_config(config, &metrics, &fence, Duration::from_secs(60)).unwrap();
    let found = maps(&both.again).get("a").await.unwrap();
    assert_eq!(found.metadata.name.as_deref(), Some("a"));
    assert!(serving.await.unwrap().starts_with(&format!("GET {PATH}/a")));
    let params = PostParams::default();
    assert!(
        maps(&both.once)
            .create(&params, &ConfigMap::default())
            .await
            .is_err()
    );
    let labels = RequestLabels {
        verb: "get",
        resource: "configmaps".to_owned(),
    };
    assert_eq!(metrics.requests.get_or_create(&labels).get(), 1);
}
