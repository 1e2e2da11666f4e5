use super::*;

/// Answers every request with these bytes.
async fn server(answer: &'static str) -> Url {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/base/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4_096]).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    url
}

async fn error(answer: &'static str) -> String {
    let url = server(answer).await;
    let client = ApiClient::new(&url, Some("secret-key")).unwrap();
    let error = client.register(b"{}".to_vec(), Ids::default()).await.unwrap_err();
    format!("{error:#}").replace(&url.origin().ascii_serialization(), "http://server")
}

#[tokio::test]
async fn a_problem_document_is_told_in_sentences() {
    let answer = concat!(
        "HTTP/1.1 422 Unprocessable Entity\r\nconnection: close\r\n\r\n",
        r#"{"type":"urn:hokusai:problem:invalid","title":"A field is not acceptable","status":422,"detail":"See `errors`.","#,
        r#""instance":"/x","request_id":"r-1","errors":[{"field":"token_id","problem":"is missing"},{"field":"","problem":"is odd"}]}"#
    );
    insta::assert_snapshot!(error(answer).await, @r#"
    A field is not acceptable: See `errors`.
      token_id: is missing
      the body: is odd
      (422 from http://server/base, request r-1)
    "#);
}

#[tokio::test]
async fn an_answer_of_something_else_is_shown_in_part() {
    insta::assert_snapshot!(error("HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\n\r\n<html>\u{7}bad gateway</html>").await, @"http://server/base answered 502 Bad Gateway: <html>bad gateway</html>");
    insta::assert_snapshot!(error("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello").await, @r#"
    http://server/base answered something else than was asked: expected value at line 1 column 1
    "#);
    insta::assert_snapshot!(error("HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\nconnection: close\r\n\r\n").await, @"http://server/base answered 301 Moved Permanently:");
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let url = Url::parse(&format!("http://user:pass@127.0.0.1:{}", hokusai_testbed::free_port())).unwrap();
    let client = ApiClient::new(&url, Some("secret-key")).unwrap();
    let error = format!("{:#}", client.token("msg-ai").await.unwrap_err());
    assert!(error.contains("did not answer"), "{error}");
    assert!(!error.contains("secret-key") && !error.contains("pass"), "{error}");
}

#[test]
fn the_key_is_never_printed() {
    let client = ApiClient::new(&Url::parse("https://user:pass@example.org/api").unwrap(), Some("secret-key")).unwrap();
    assert_eq!(format!("{client:?}"), "ApiClient(https://example.org/api)");
    assert!(ApiClient::new(&Url::parse("ftp://example.org").unwrap(), None).is_err());
    assert!(ApiClient::new(&Url::parse("http://example.org").unwrap(), Some("line\nbreak")).is_err());
}
