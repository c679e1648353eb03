//! The program as a supervisor sees it: what it prints where, and with which code it ends.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure, in its helpers too")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

fn fanline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanline"));
    command.env_clear().args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server on a free port that is killed when the test ends, however it ends.
struct Server {
    process: Child,
    stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut process = fanline(&["serve", "--http", "127.0.0.1:0", "--udp-port", "0"])
            .args(args)
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, stdout }
    }

    /// The lines of the greeting, to its last: the request to try.
    fn greeting(&mut self) -> String {
        let mut text = String::new();
        while !text.contains("/sessions/new\n") {
            assert_ne!(
                self.stdout.read_line(&mut text).expect("UTF-8"),
                0,
                "the greeting ended early: {text}"
            );
        }
        text
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill exists").success());
    }

    fn stop(&mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.process.wait().expect("it is our child").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_first_start_shows_all_that_a_first_request_needs() {
    let mut server = Server::start(&[]);
    let greeting = server.greeting();
    let field = |name: &str| {
        let line = greeting.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {greeting}")).trim().to_owned()
    };
    assert!(field("API").starts_with("http://127.0.0.1:") && field("API").ends_with("/v1"), "{greeting}");
    assert!(field("Demo").ends_with("/demo"), "{greeting}");
    assert_eq!((field("App").len(), field("Secret").len()), (32, 64));
    assert!(field("Try").contains(&format!("'Authorization: Bearer {}'", field("Secret"))));
    assert!(greeting.ends_with(&format!("{}/apps/{}/sessions/new\n", field("API"), field("App"))));
}

#[test]
fn a_configured_secret_is_printed_nowhere() {
    let secret = "0123456789abcdef";
    let mut server = Server::start(&["--app", &format!("prod:{secret}"), "--log", "trace"]);
    let greeting = server.greeting();
    assert!(!greeting.contains(secret) && !greeting.contains("/demo"), "{greeting}");
    for (given, status) in [(secret, 201), ("another-secret-01", 401)] {
        let path = "POST /v1/apps/prod/sessions/new?correlationId=call-7";
        assert_eq!(ask(address_in(&greeting), path, given).0, status);
    }
    assert_eq!(server.stop("-TERM"), Some(0));
    let mut log = String::new();
    server.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("SIGTERM") && log.contains("call-7"), "{log}");
    assert!(!log.contains(secret) && !log.contains("another-secret-01"), "{log}");
}

/// Where the API is, as the greeting tells.
fn address_in(greeting: &str) -> &str {
    let (_, address) = greeting.split_once("http://").unwrap();
    address.split('/').next().unwrap()
}

/// The status and the body of an answer to `request`, like `GET /healthz`.
fn ask(address: &str, request: &str, secret: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("Host: {address}\r\nAuthorization: Bearer {secret}\r\nConnection: close");
    write!(stream, "{request} HTTP/1.1\r\n{head}\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_hangup_reloads_the_apps_and_leaves_sessions_alone() {
    let [first, second, third] = ["first-secret-0123", "second-secret-012", "third-secret-0123"];
    let app = |id: &str, secret: &str| format!("[[apps]]\nid = '{id}'\nsecret = '{secret}'\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    fs::write(path, app("one", first)).unwrap();
    let mut server = Server::start(&["--config", path, "--log", "trace"]);
    let greeting = server.greeting();
    let address = address_in(&greeting);
    let mut log = BufReader::new(server.process.stderr.take().unwrap());
    let mut seen = String::new();
    let mut hang_up = |server: &Server, expected: &str| {
        server.signal("-HUP");
        let start = seen.len();
        while !seen[start..].contains("apps reloaded") && !seen[start..].contains("stay as they were") {
            assert_ne!(log.read_line(&mut seen).unwrap(), 0, "{seen}");
        }
        let line = seen.lines().last().unwrap();
        assert!(line.contains(expected), "{line}");
    };
    let new = |id: &str, secret| ask(address, &format!("POST /v1/apps/{id}/sessions/new"), secret);
    let (status, body) = new("one", first);
    assert_eq!(status, 201, "{body}");
    let session = body.split('"').nth(3).unwrap();
    let session = format!("GET /v1/apps/one/sessions/{session}");

    fs::write(path, app("one", second) + &app("two", third)).unwrap();
    hang_up(&server, "one,two");
    assert_eq!([new("one", first).0, new("one", second).0, new("two", third).0], [401, 201, 201]);
    assert_eq!(ask(address, &session, second).0, 200, "the session lives on");

    fs::write(path, app("one", first) + &app("two", "short")).unwrap();
    hang_up(&server, &format!("{path}:1: apps = two:…: the secret is too short"));
    fs::write(path, "").unwrap();
    hang_up(&server, "no app is configured");
    assert_eq!([new("one", first).0, new("one", second).0], [401, 201], "a bad file changes nothing");

    fs::write(path, app("two", third)).unwrap();
    hang_up(&server, "apps reloaded");
    assert_eq!([new("one", second).0, new("two", third).0], [404, 201]);
    fs::write(path, app("one", first)).unwrap();
    hang_up(&server, "apps reloaded");
    assert_eq!(ask(address, &session, first).0, 200, "an app that comes back finds its sessions");

    assert_eq!(server.stop("-TERM"), Some(0));
    log.read_to_string(&mut seen).unwrap();
    assert!([first, second, third].iter().all(|secret| !seen.contains(secret)), "{seen}");
}

#[test]
fn a_signal_to_stop_ends_the_server_with_success() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start(&[]);
        server.greeting();
        assert_eq!(server.stop(signal), Some(0), "{signal}");
    }
}

#[test]
fn a_setting_that_must_change_is_one_line_and_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (args, problem) in [
        (["--udp-port", "x"], "fanline: --udp-port x: not a whole number from 0 to 65535\n"),
        (["--config", "/nowhere"], "fanline: --config /nowhere: cannot be read"),
        (["--http", &taken], &format!("fanline: --http {taken}: Address already in use")),
    ] {
        let output = fanline(&["serve"]).args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with(problem) && stderr.lines().count() == 1, "{stderr}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{stderr}");
    }
}
