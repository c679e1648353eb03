//! A server process, and what every one of its answers must be.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::Value;

pub const APP: &str = "demo";
pub const SECRET: &str = "demo-secret-0123456789";
pub const OTHER_APP: &str = "other";
pub const OTHER_SECRET: &str = "other-secret-0123456789";

/// No answer of a test takes longer, unless the server hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Killed when the test ends, however it ends.
pub struct Server {
    process: Child,
    pub origin: String,
    http: reqwest::Client,
}

/// An answer that was JSON, readable from any page, and without `null` or empty strings.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more flags. Unless one sets it, the rate limit is out of the way: who waits for something asks often.
    pub fn with(flags: &[&str]) -> Self {
        Self::bound_to("127.0.0.1", flags)
    }

    /// With its UDP ports on this address.
    pub fn bound_to(ip: &str, flags: &[&str]) -> Self {
        let apps = [(APP, SECRET), (OTHER_APP, OTHER_SECRET)].map(|(id, secret)| format!("{id}:{secret}"));
        let mut process = Command::new(env!("CARGO_BIN_EXE_fanline"))
            .env_clear()
            // `FANLINE_IO=uring cargo test --test api` runs it all over another backend.
            .envs(std::env::vars().filter(|(name, _)| name == "FANLINE_IO"))
            .env("FANLINE_MAX_REQUESTS_PER_SECOND", "1000000")
            .args(["serve", "--http", "127.0.0.1:0", "--udp-bind", ip, "--udp-port", "0"])
            .args(["--app", &apps[0], "--app", &apps[1], "--log", "warn"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let greeting = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut origins = greeting
            .map_while(Result::ok)
            .filter_map(|line| Some(line.trim().strip_prefix("API")?.to_owned()));
        let origin = origins.next().expect("the greeting tells the API's address");
        let origin = origin.trim().trim_end_matches("/v1").to_owned();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { process, origin, http }
    }

    /// A request to `path` below the app, as clients of the app make it.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.raw(method, &format!("/v1/apps/{APP}{path}")).header(AUTHORIZATION, format!("Bearer {SECRET}"))
    }

    /// A request to any path, by nobody in particular.
    pub fn raw(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.origin))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).body(body.to_string())).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).body(body.to_string())).await
    }

    pub async fn new_session(&self) -> String {
        let answer = Answer::of(self.request(Method::POST, "/sessions/new")).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["sessionId"].as_str().unwrap().to_owned()
    }

    /// The value of a gauge or counter of `/metrics`, summed over shards.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = self.raw(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let samples = page.lines().filter_map(|line| {
            let (series, value) = line.split_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().unwrap())
        });
        let samples: Vec<_> = samples.collect();
        assert!(!samples.is_empty(), "no {name} in {page}");
        samples.iter().sum()
    }

    /// Waits until a metric has this value.
    pub async fn metric_becomes(&self, name: &str, expected: f64) {
        let reached = async {
            while self.metric(name).await != expected {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(5), reached).await;
        assert!(reached.is_ok(), "{name} is {} and not {expected}", self.metric(name).await);
    }

    pub fn terminate(&self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill exists").success());
    }

    /// The exit code, once the process has ended.
    pub async fn ended(&mut self) -> Option<i32> {
        loop {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the server answers");
        let status = response.status().as_u16();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json", "status {status}");
        assert_eq!(response.headers()["access-control-allow-origin"], "*", "status {status}");
        let body: Value = response.json().await.expect("the body is JSON");
        assert!(body.is_object(), "{body}");
        assert_eq!(hole_in(&body), None, "{body}");
        Self { status, body }
    }

    /// The body of a 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// Asserts the refusal, and that its description names all of `names`.
    #[track_caller]
    pub fn is_refused(&self, status: u16, code: &str, names: &[&str]) {
        assert_eq!((self.status, self.body["errorCode"].as_str()), (status, Some(code)), "{}", self.body);
        names_all(&self.body, names);
    }
}

/// Asserts that an item of a 200 failed with this code, and that its description names all of `names`.
#[track_caller]
pub fn is_failed(item: &Value, code: &str, names: &[&str]) {
    assert_eq!(item["errorCode"], code, "{item}");
    names_all(item, names);
}

#[track_caller]
fn names_all(error: &Value, names: &[&str]) {
    let description = error["errorDescription"].as_str().expect("every error is described");
    for name in names {
        assert!(description.contains(name), "{name:?} is not in {description:?}");
    }
}

/// The first key whose value is null or empty. A failed pull's `mid` is the one that may be empty: clients
/// expect it so.
fn hole_in(value: &Value) -> Option<String> {
    let Value::Object(fields) = value else {
        return value.as_array().and_then(|items| items.iter().find_map(hole_in));
    };
    fields.iter().find_map(|(key, value)| match value {
        Value::Null => Some(key.clone()),
        Value::String(text) if text.is_empty() => {
            (key != "mid" || !fields.contains_key("errorCode")).then(|| key.clone())
        }
        other => hole_in(other),
    })
}
