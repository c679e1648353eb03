//! What a user sees who sets things in three places, and who gets one of them wrong.

use std::io::Write;

use super::*;

const SECRET: &str = "0123456789abcdef";

/// A host with four cores, two usable addresses, and the rest of what interfaces have.
fn host() -> Host {
    let addresses = ["127.0.0.1", "192.0.2.7", "::1", "2001:db8::7", "fe80::1"];
    Host { cores: vec![0, 1, 2, 3], addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect() }
}

fn load(flags: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let args = ["fanline", "serve"].into_iter().chain(flags.split_whitespace()).map(OsString::from);
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    match Config::load(args, env, &host())? {
        Loaded::Serve(config) => Ok(*config),
        loaded => panic!("not a configuration: {loaded:?}"),
    }
}

fn error(flags: &str, env: &[(&str, &str)]) -> String {
    load(flags, env).unwrap_err().to_string()
}

/// A configuration file, and the flag that names it.
fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let flag = format!("--config={}", file.path().display());
    (file, flag)
}

/// The error of a file, without the path before its line number.
fn file_error(text: &str) -> String {
    let (file, flag) = file(text);
    let error = error(&flag, &[]);
    error.strip_prefix(&format!("{}:", file.path().display())).unwrap_or(&error).to_owned()
}

fn text(args: &[&str]) -> String {
    match Config::load(args.iter().map(OsString::from), [], &host()) {
        Ok(Loaded::Text(text)) => text,
        other => panic!("not a text: {other:?}"),
    }
}

fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn with_nothing_set_the_server_is_local_and_uses_every_core() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.http.to_string(), "127.0.0.1:8080");
    assert_eq!(config.shard_cores, [0, 1, 2, 3]);
    assert_eq!(config.advertise, ips(&["192.0.2.7", "2001:db8::7", "127.0.0.1"]));
    assert!(config.apps.is_empty() && !config.no_gso && !config.serves_demo());
}

#[test]
fn limits_and_timers_are_those_that_clients_of_the_api_are_told() {
    let config = load("", &[]).unwrap();
    let timers = [
        config.never_connected_timeout,
        config.connectivity_timeout,
        config.media_timeout,
        config.ack_timeout,
        config.connect_wait,
        config.pull_wait,
        config.offer_timeout,
    ];
    assert_eq!(timers.map(|timer| timer.as_secs()), [30, 30, 30, 30, 5, 5, 10]);
    assert_eq!((config.max_requests_per_second, config.max_tracks_per_request), (50, 64));
    assert_eq!(config.max_body_bytes, 1 << 20);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let (_file, flag) = file("udp_port = 1000\nhttp = '127.0.0.1:1'\nmax-sessions = 1\nlog = 'warn'");
    let env = [("FANLINE_UDP_PORT", "2000"), ("FANLINE_HTTP", "127.0.0.1:2")];
    let config = load(&format!("{flag} --udp-port 3000"), &env).unwrap();
    assert_eq!(config.udp_port, 3000, "flag");
    assert_eq!(config.http.port(), 2, "environment");
    assert_eq!((config.max_sessions, config.log.as_str()), (1, "warn"), "file");
    assert_eq!(config.max_tracks_per_request, 64, "default");
}

#[test]
fn the_environment_can_name_the_file() {
    let (file, _) = file("shards = 2");
    let config = load("", &[("FANLINE_CONFIG", file.path().to_str().unwrap())]).unwrap();
    assert_eq!(config.shard_cores.len(), 2);
}

#[test]
fn a_list_replaces_the_list_of_a_lower_source() {
    let (_file, flag) = file(&format!("app = ['a:{SECRET}', 'b:{SECRET}']\ncores = [0, '2-3']"));
    let ids = |config: Config| config.apps.into_iter().map(|app| app.id.0).collect::<Vec<_>>();
    let from_file = load(&flag, &[]).unwrap();
    assert_eq!(from_file.shard_cores, [0, 2, 3]);
    assert_eq!(ids(from_file), ["a", "b"]);
    let env = format!("c:{SECRET},d:{SECRET}");
    assert_eq!(ids(load(&flag, &[("FANLINE_APP", &env)]).unwrap()), ["c", "d"]);
    let typed = load(&format!("{flag} --app e:{SECRET} --app f:{SECRET}"), &[("FANLINE_APP", &env)]);
    assert_eq!(ids(typed.unwrap()), ["e", "f"]);
}

#[test]
fn a_switch_set_below_can_be_cleared_above() {
    let (_file, flag) = file("no_gso = true");
    assert!(load(&flag, &[]).unwrap().no_gso);
    assert!(!load(&flag, &[("FANLINE_NO_GSO", "0")]).unwrap().no_gso);
    assert!(load(&format!("{flag} --no-gso"), &[("FANLINE_NO_GSO", "0")]).unwrap().no_gso);
    assert!(!load(&format!("{flag} --no-gso=false"), &[]).unwrap().no_gso);
}

#[test]
fn an_empty_variable_and_those_of_kubernetes_count_as_unset() {
    let env =
        [("FANLINE_HTTP", ""), ("FANLINE_PORT", "tcp://10.0.0.1:80"), ("FANLINE_SERVICE_HOST", "10.0.0.1")];
    assert!(load("", &env).is_ok());
    assert!(load("", &[("FANLINE_PORT", "8080")]).is_err(), "this one is a person's mistake");
}

#[test]
fn an_error_names_its_source_the_value_and_the_remedy() {
    let port = "not a whole number from 0 to 65535";
    assert_eq!(error("--udp-port 70000", &[]), format!("--udp-port 70000: {port}"));
    assert_eq!(error("", &[("FANLINE_UDP_PORT", "x")]), format!("FANLINE_UDP_PORT=x: {port}"));
    assert_eq!(file_error("# ports\nudp-port = true"), format!("2: udp-port = true: {port}"));
    assert_eq!(
        error("--http localhost", &[]),
        "--http localhost: not an address with a port; write it like 127.0.0.1:8080 or [::1]:8080"
    );
    assert_eq!(
        file_error("media_timeout = 30"),
        "1: media_timeout = 30: not a duration; write a whole number with its unit, like 500ms, 30s, 2m or 1h"
    );
    assert_eq!(error("--log-format xml", &[]), "--log-format xml: use text or json");
    assert_eq!(error("--demo", &[]), "--demo: use auto or on or off");
    assert_eq!(error("--http", &[]), "--http: needs a value");
    assert_eq!(error("--shards 1 --shards 2", &[]), "--shards: given more than once; keep one");
}

#[test]
fn nothing_is_paced_more_slowly_than_video_may_come() {
    let pace = |percent: &str| load(&format!("--pacing-percent {percent}"), &[]).map(|c| c.pacing_percent);
    assert_eq!(["0", "100", "1000"].map(|percent| pace(percent).unwrap()), [0, 100, 1_000]);
    for percent in ["1", "99", "1001", "x"] {
        assert_eq!(
            pace(percent).unwrap_err().to_string(),
            format!("--pacing-percent {percent}: not a whole number from 100 to 1000, nor 0")
        );
    }
}

#[test]
fn a_name_that_is_no_setting_is_an_error_with_the_likely_one() {
    assert_eq!(error("--udp-prot 1", &[]), "--udp-prot: no such flag; did you mean --udp-port?");
    assert_eq!(
        error("", &[("FANLINE_UDP_PROT", "1")]),
        "FANLINE_UDP_PROT: no such setting; did you mean FANLINE_UDP_PORT?"
    );
    assert_eq!(file_error("udp_prot = 1"), "1: udp_prot: no such setting; did you mean udp_port?");
    assert_eq!(file_error("x = 1"), "1: x: no such setting; `fanline serve --help` lists them");
    assert_eq!(file_error("config = 'b'"), "1: config: a file cannot name another; remove it");
}

#[test]
fn a_file_with_the_wrong_shape_is_an_error_at_its_line() {
    assert_eq!(file_error("\nhttp = ['a']"), "2: http: is an array; this setting takes one value");
    assert_eq!(file_error("[http]\na = 1"), "1: http: is a table; write a string, a number or a boolean");
    assert_eq!(
        file_error("udp_port = 1\nudp-port = 2"),
        "2: udp-port: already set as `udp_port`; keep one of them"
    );
    assert!(file_error("\n\nhttp = ").starts_with("3: not TOML: "), "{}", file_error("\n\nhttp = "));
    assert_eq!(
        error("--config /nowhere.toml", &[]),
        "--config /nowhere.toml: cannot be read (No such file or directory (os error 2)); \
         name a TOML file that this user may read"
    );
}

#[test]
fn no_error_shows_a_secret() {
    let short = "tooshort";
    let expected = "app:…: the secret is too short; use at least 16 characters, \
                    such as `openssl rand -hex 32` prints";
    assert_eq!(error(&format!("--app app:{short}"), &[]), format!("--app {expected}"));
    assert_eq!(error("", &[("FANLINE_APP", "app:tooshort")]), format!("FANLINE_APP={expected}"));
    assert_eq!(file_error("app = 'app:tooshort'"), format!("1: app = {expected}"));
    let twice = error(&format!("--app a:{SECRET} --app a:{SECRET}"), &[]);
    assert_eq!(twice, "--app a:…,a:…: `a` is listed twice; keep one secret for it");
    let env = format!("a:{SECRET},a:{SECRET}");
    for error in [
        error("", &[("FANLINE_APP", &env)]),
        error(&format!("--app a:{SECRET},{SECRET}"), &[]),
        error(&format!("--app={SECRET}"), &[]),
        error(&format!("--aps=a:{SECRET}"), &[]),
        error(&format!("a:{SECRET}"), &[]),
        file_error(&format!("app = [['{SECRET}']]")),
        file_error(&format!("app = '{SECRET}")),
    ] {
        assert!(!error.contains(SECRET), "{error}");
    }
}

#[test]
fn every_shard_has_a_core_of_its_own() {
    assert_eq!(load("--shards 2", &[]).unwrap().shard_cores, [0, 1]);
    assert_eq!(load("--cores 3,1-2,2", &[]).unwrap().shard_cores, [3, 1, 2]);
    assert_eq!(load("--cores 1-3 --shards 1", &[]).unwrap().shard_cores, [1]);
    assert_eq!(
        error("--shards 3 --cores 0,1", &[]),
        "--shards 3: each shard needs a core of its own and there are only 0,1; lower it"
    );
    assert_eq!(error("--cores 2-9", &[]), "--cores 2-9: core 4 is not there; choose from 0,1,2,3");
    assert_eq!(error("--cores 3-1", &[]), "--cores 3-1: not a list of cores; write it like 0,2-3");
}

#[test]
fn every_shard_has_a_port_below_65536() {
    use crate::id::ShardId;
    let config = load("--udp-port 65532", &[]).unwrap();
    assert_eq!(config.udp_port_of(ShardId(3)), 65_535);
    assert_eq!(load("--udp-port 0", &[]).unwrap().udp_port_of(ShardId(3)), 0);
    assert_eq!(
        error("--udp-port 65533", &[]),
        "--udp-port 65533: 4 shards need as many ports from it on; use 65532 or less"
    );
}

#[test]
fn clients_are_told_what_the_socket_can_receive() {
    let both = load("--udp-bind ::", &[]).unwrap();
    assert_eq!(both.advertise, ips(&["192.0.2.7", "2001:db8::7", "127.0.0.1"]));
    let one = load("--udp-bind 0.0.0.0", &[]).unwrap();
    assert_eq!(one.advertise, ips(&["192.0.2.7", "127.0.0.1"]));
    assert_eq!(load("--udp-bind 10.0.0.1", &[]).unwrap().advertise, ips(&["10.0.0.1"]));
    let behind_nat = load("--udp-bind 10.0.0.1 --advertise 198.51.100.1", &[]).unwrap();
    assert_eq!(behind_nat.advertise, ips(&["198.51.100.1"]));
    assert_eq!(
        error("--udp-bind 0.0.0.0 --advertise 2001:db8::7", &[]),
        "--advertise 2001:db8::7: nothing sent to 2001:db8::7 reaches --udp-bind 0.0.0.0; bind :: for both families"
    );
}

#[test]
fn the_demo_comes_with_a_development_app_unless_told_otherwise() {
    for (flags, before, after) in [("", false, true), ("--demo on", true, true), ("--demo off", false, false)]
    {
        let mut config = load(flags, &[]).unwrap();
        assert_eq!(config.serves_demo(), before, "{flags}");
        config.use_development_app(App::development([1; 16], [2; 32]));
        assert_eq!(config.serves_demo(), after, "{flags}");
    }
}

#[test]
fn help_shows_each_setting_with_its_default() {
    let help = text(&["fanline", "serve", "--help"]);
    for shown in ["--http <ADDR:PORT>", "[default: 127.0.0.1:8080]", "[default: 1048576]", "FANLINE_UDP_PORT"]
    {
        assert!(help.contains(shown), "{shown} in {help}");
    }
    assert!(text(&["fanline", "--version"]).starts_with("fanline 0."));
    assert!(text(&["fanline"]).contains("serve"));
}

#[test]
fn apps_can_be_a_list_of_tables() {
    let list = |id: &str, secret: &str| format!("[[apps]]\nid = '{id}'\nsecret = '{secret}'\n");
    let (_file, flag) = file(&format!("http = '127.0.0.1:0'\n{}{}", list("a", SECRET), list("b", SECRET)));
    let ids = |config: Config| config.apps.into_iter().map(|app| app.id.0).collect::<Vec<_>>();
    assert_eq!(ids(load(&flag, &[]).unwrap()), ["a", "b"]);
    let other = format!("c:{SECRET}");
    assert_eq!(ids(load(&flag, &[("FANLINE_APP", &other)]).unwrap()), ["c"], "the environment wins over it");
}

#[test]
fn an_entry_of_the_apps_that_is_wrong_is_told_without_its_secret() {
    let cases = [
        (
            format!("[[apps]]\nid = 'a'\nsecret = '{SECRET}'\n[[apps]]\nid = 'b'"),
            "entry 2: `secret` is missing",
        ),
        (format!("[[apps]]\nid = 'a'\nsecrte = '{SECRET}'"), "entry 1: no field is called `secrte`"),
        (format!("[[apps]]\nid = 'a:b'\nsecret = '{SECRET}'"), "entry 1: `id` must hold no comma or colon"),
        (
            format!("[[apps]]\nid = 'a'\nsecret = '{SECRET},x:{SECRET}'"),
            "entry 1: `secret` must hold no comma",
        ),
        (format!("[[apps]]\nid = 'a'\nsecret = ['{SECRET}']"), "entry 1: `secret` is a array"),
        ("[[apps]]\nid = 'a'\nsecret = 'short'".into(), " = a:…: the secret is too short"),
        (format!("app = 'a:{SECRET}'\n[[apps]]\nid = 'b'\nsecret = '{SECRET}'"), "already set as `app`"),
        (
            format!("[[apps]]\nid = 'a'\nsecret = '{SECRET}'\n[[apps]]\nid = 'a'\nsecret = '{SECRET}'"),
            "`a` is listed twice",
        ),
        ("[[cores]]\nid = 1".into(), "is a table; write a string"),
    ];
    for (text, problem) in cases {
        let error = file_error(&text);
        assert!(error.contains(problem), "{error}");
        assert!(!error.contains(SECRET) && error.lines().count() == 1, "{error}");
    }
}
