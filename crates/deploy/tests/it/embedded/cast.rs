//! Foundry's `cast` speaks to the chain over HTTP as to any node.

use std::sync::Arc;

use hokusai_deploy::embedded::{DEV_KEYS, EmbeddedChain};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
    process::Command,
};

use super::{account, chain, init_code};

#[tokio::test]
async fn cast_deploys_calls_and_reads() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let chain = chain().await;
    tokio::select! {
        () = serve(listener, chain) => unreachable!("it serves until the test is over"),
        () = use_cast(&url) => {}
    }
}

async fn use_cast(url: &str) {
    let code = format!("0x{}", alloy::hex::encode(init_code()));
    let contract = account(0).address().create(0).to_string();
    assert_eq!(cast(url, &["chain-id"]).await, "31337");
    let deployed = cast(url, &["send", "--private-key", DEV_KEYS[0], "--create", &code]).await;
    assert!(deployed.contains("status               1 (success)"), "{deployed}");
    let sent = cast(url, &["send", "--private-key", DEV_KEYS[0], &contract, "0x00"]).await;
    assert!(sent.contains("status               1 (success)") && sent.contains("blockNumber          2"), "{sent}");
    assert_eq!(cast(url, &["call", &contract, "--data", "0x00"]).await, format!("{:#066x}", 2));
    assert_eq!(cast(url, &["storage", &contract, "0"]).await, format!("{:#066x}", 1));
    assert_eq!(cast(url, &["nonce", &account(0).address().to_string()]).await, "2");
    assert_eq!(cast(url, &["block", "latest", "--field", "number"]).await, "2");
    assert!(cast(url, &["logs", "--from-block", "0", "--address", &contract]).await.contains("logIndex: 0"));
    assert!(cast(url, &["gas-price"]).await.parse::<u64>().unwrap() > 1_000_000_000);
}

async fn cast(url: &str, args: &[&str]) -> String {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/node_modules/.bin/cast");
    let output = Command::new(program).args([args[0], "--rpc-url", url]).args(&args[1..]).output().await;
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; run scripts/setup (npm ci --prefix tools)"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    // Its npm wrapper loses the exit code.
    assert!(text(&output.stderr).is_empty(), "cast {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// As much of HTTP as `cast` needs; the real listener belongs to the application.
async fn serve(listener: TcpListener, chain: Arc<EmbeddedChain>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let chain = chain.clone();
        tokio::spawn(async move { converse(BufStream::new(stream), chain).await });
    }
}

async fn converse(mut stream: BufStream<TcpStream>, chain: Arc<EmbeddedChain>) -> std::io::Result<()> {
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let answer = chain.respond(&body).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&answer).await?;
        stream.flush().await?;
    }
}
