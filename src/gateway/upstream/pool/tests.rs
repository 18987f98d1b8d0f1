use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use super::*;

const IDLE: Duration = Duration::from_secs(60);
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An upstream that does `each` with every connection; and how many there were.
async fn upstream<F, T>(each: F) -> (Uri, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/mcp?a=b", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(each(stream));
        }
    });
    (uri.parse().unwrap(), count)
}

fn pool(uri: &Uri, idle: Duration) -> Pool {
    Pool::new(HttpConnector::new(), uri, None, idle).unwrap()
}

/// Reads one request, whose body is `hello`; None at the end.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\nhello") {
        let read = stream.read_buf(&mut got).await.unwrap_or(0);
        if read == 0 {
            return None;
        }
    }
    Some(String::from_utf8(got).unwrap())
}

async fn answer_with(mut stream: TcpStream, answer: &str, times: usize) {
    for _ in 0..times {
        if request(&mut stream).await.is_none() {
            return;
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn hello() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from("hello"));
    *request.method_mut() = http::Method::POST;
    request
}

async fn call(pool: &Pool) -> Result<Bytes, UpstreamError> {
    let response = pool.send(hello()).await?;
    let body = response.into_body().collect().await;
    Ok(body.map_err(UpstreamError::Broken)?.to_bytes())
}

#[tokio::test]
async fn one_connection_carries_one_call_after_the_other() {
    let (uri, count) = upstream(|stream| answer_with(stream, ANSWER, usize::MAX)).await;
    let pool = pool(&uri, IDLE);
    for _ in 0..5 {
        assert_eq!(call(&pool).await.unwrap(), "ok");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_request_names_its_target_and_its_host() {
    let (heads, mut head) = mpsc::channel(1);
    let (uri, _) = upstream(move |mut stream| {
        let heads = heads.clone();
        async move {
            let got = request(&mut stream).await.unwrap();
            stream.write_all(ANSWER.as_bytes()).await.unwrap();
            heads.send(got).await.unwrap();
        }
    })
    .await;
    call(&pool(&uri, IDLE)).await.unwrap();
    let authority = uri.authority().unwrap();
    assert_eq!(
        head.recv().await.unwrap(),
        format!("POST /mcp?a=b HTTP/1.1\r\nhost: {authority}\r\ncontent-length: 5\r\n\r\nhello")
    );
}

#[tokio::test]
async fn calls_at_the_same_time_have_connections_of_their_own() {
    let (uri, count) = upstream(|mut stream| async move {
        request(&mut stream).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(ANSWER.as_bytes()).await.unwrap();
        answer_with(stream, ANSWER, usize::MAX).await;
    })
    .await;
    let pool = pool(&uri, IDLE);
    let (first, second) = tokio::join!(call(&pool), call(&pool));
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        ("ok".into(), "ok".into())
    );
    assert_eq!(count.load(Ordering::SeqCst), 2);
    call(&pool).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_is_not_used_again() {
    let said_so = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let to_its_end = "HTTP/1.1 200 OK\r\n\r\nok";
    for answer in [ANSWER, said_so, to_its_end] {
        let (uri, count) = upstream(move |stream| answer_with(stream, answer, 1)).await;
        let pool = pool(&uri, IDLE);
        for calls in 1..4 {
            assert_eq!(call(&pool).await.unwrap(), "ok");
            assert_eq!(count.load(Ordering::SeqCst), calls, "{answer}");
            // The end of the connection gets here.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn what_is_certain_about_a_failed_request_is_told() {
    let (uri, count) = upstream(|mut stream| async move {
        request(&mut stream).await;
    })
    .await;
    let error = call(&pool(&uri, IDLE)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Broken(_)), "{error:?}");
    assert_eq!(count.load(Ordering::SeqCst), 1, "it was sent again");

    let (uri, _) =
        upstream(|stream| answer_with(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", 1))
            .await;
    let error = call(&pool(&uri, IDLE)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Broken(_)), "{error:?}");

    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/mcp", unused.local_addr().unwrap());
    drop(unused);
    let error = call(&pool(&uri.parse().unwrap(), IDLE)).await.unwrap_err();
    assert!(error.not_sent(), "{error:?}");
}

#[tokio::test]
async fn a_stream_comes_piece_by_piece_and_its_connection_is_used_again() {
    let go_on = Arc::new(Notify::new());
    let told = Arc::clone(&go_on);
    let (uri, count) = upstream(move |mut stream| {
        let told = Arc::clone(&told);
        async move {
            while request(&mut stream).await.is_some() {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
                stream.write_all(head).await.unwrap();
                told.notified().await;
                let rest = b"6\r\nsecond\r\n0\r\n\r\n";
                stream.write_all(rest).await.unwrap();
            }
        }
    })
    .await;
    let pool = pool(&uri, IDLE);
    for _ in 0..3 {
        let mut body = pool.send(hello()).await.unwrap().into_body();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
            go_on.notify_one();
        }
        assert_eq!(pieces, ["first", "second"]);
        // No request waited for the last of those.
        tokio::time::timeout(Duration::from_millis(1), go_on.notified())
            .await
            .unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_upstream_sees_that_nobody_reads_its_stream_any_more() {
    let (ended, mut end) = mpsc::channel(1);
    let (uri, _) = upstream(move |mut stream| {
        let ended = ended.clone();
        async move {
            request(&mut stream).await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(head).await.unwrap();
            let _ = ended.send(request(&mut stream).await).await;
        }
    })
    .await;
    let pool = pool(&uri, IDLE);
    let mut body = pool.send(hello()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(end.recv().await, Some(None));
}

#[tokio::test]
async fn a_connection_that_is_not_used_is_closed_after_a_while() {
    let (ended, mut end) = mpsc::channel(1);
    let (uri, _) = upstream(move |stream| {
        let ended = ended.clone();
        async move {
            answer_with(stream, ANSWER, usize::MAX).await;
            ended.send(()).await.unwrap();
        }
    })
    .await;
    let pool = pool(&uri, Duration::from_millis(40));
    for _ in 0..2 {
        call(&pool).await.unwrap();
        assert_eq!(end.recv().await, Some(()));
    }
}
