//! The program as a supervisor sees it: what it prints where, and with which code it ends.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
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

    fn stop(&mut self, signal: &str) -> Option<i32> {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill exists").success());
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
    assert_eq!(server.stop("-TERM"), Some(0));
    let mut log = String::new();
    server.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("SIGTERM") && !log.contains(secret), "{log}");
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
