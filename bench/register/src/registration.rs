//! Registrations as requests: what hokusai's endpoint takes, and what a bare endpoint must parse of it.
//!
//! Each request differs from every other in run and token, so that each is a registration of its own: one row, one event.
//! All have the same length, which lets the generator overwrite a few digits instead of serialising anew; the generator shares
//! its cores with the server it measures.

use std::borrow::Cow;

use serde::Deserialize;

/// The fields that every registration carries, borrowed from the body.
#[derive(Debug, Deserialize)]
pub struct Registration<'a> {
    #[serde(borrow)]
    pub model_uri: Cow<'a, str>,
    #[serde(borrow)]
    pub model_name: Cow<'a, str>,
    #[serde(borrow)]
    pub token_id: Cow<'a, str>,
    #[serde(borrow)]
    pub metric_name: Cow<'a, str>,
    pub baseline_value: f64,
    pub current_value: f64,
}

/// Where registrations go.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`, for the Host header.
    pub host: String,
    /// The endpoint's path.
    pub path: String,
    /// Further header lines, as `Name: value`.
    pub headers: Vec<String>,
}

/// An endless supply of HTTP requests, each a registration that was never made before.
#[derive(Debug)]
pub struct Requests {
    bytes: Vec<u8>,
    run_at: usize,
    token_at: usize,
    name_at: usize,
    names: u64,
    next: u64,
}

const RUN: &str = "@RUN@@@@";
const TOKEN: &str = "@TOKEN@@";
const NAME: &str = "@NAM";

impl Requests {
    /// Requests whose identities contain `seed`; two supplies with different seeds have none in common. The models go
    /// round through `names` names: an account has a few models and many runs.
    pub fn new(target: &Target, seed: u32, names: u16) -> Self {
        let body = format!(
            "{{\"model_uri\":\"runs:/0000000000000000{seed:08x}{RUN}/model\",\"model_name\":\"bench-model-{NAME}\",\
             \"token_id\":\"B{seed:08X}-{TOKEN}\",\"metric_name\":\"accuracy\",\"baseline_value\":0.85,\"current_value\":0.9132}}"
        );
        let headers: String = target.headers.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            target.path,
            target.host,
            body.len()
        );
        let at = |mark: &str| request.find(mark).expect("the request was made with this mark");
        let (run_at, token_at, name_at) = (at(RUN), at(TOKEN), at(NAME));
        Self { bytes: request.into_bytes(), run_at, token_at, name_at, names: u64::from(names.max(1)), next: 0 }
    }

    /// The next request, whole.
    pub fn next_request(&mut self) -> &[u8] {
        let number = self.next;
        self.next += 1;
        write_hex(&mut self.bytes[self.run_at..self.run_at + RUN.len()], number);
        write_hex(&mut self.bytes[self.token_at..self.token_at + TOKEN.len()], number);
        write_hex(&mut self.bytes[self.name_at..self.name_at + NAME.len()], number % self.names);
        &self.bytes
    }
}

fn write_hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(request: &[u8]) -> String {
        let text = std::str::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert!(head.contains("X-Test: 1"), "{head}");
        body.to_owned()
    }

    #[test]
    fn every_request_is_a_registration_of_its_own() {
        let target = Target { host: "h:1".into(), path: "/r".into(), headers: vec!["X-Test: 1".into()] };
        let mut requests = Requests::new(&target, 0xabc, 2);
        let bodies: Vec<String> = (0..3).map(|_| body(requests.next_request())).collect();
        let parsed: Vec<Registration<'_>> = bodies.iter().map(|body| serde_json::from_str(body).unwrap()).collect();
        assert_eq!(parsed[1].model_uri, "runs:/000000000000000000000abc00000001/model");
        assert_eq!(parsed[1].token_id, "B00000ABC-00000001");
        assert_ne!(parsed[0].model_uri, parsed[2].model_uri);
        assert_ne!(parsed[0].token_id, parsed[2].token_id);
        assert_eq!(parsed[0].model_name, parsed[2].model_name);
        assert_ne!(parsed[0].model_name, parsed[1].model_name);
    }
}
