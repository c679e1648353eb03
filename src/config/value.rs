//! The values a setting can hold, each parsed once from its text and correct from then on.
//!
//! Every parser here is a clap value parser, so a flag, an environment variable and a key of the file
//! are read by the same code. An error says what the text should have been; the caller adds where it
//! came from. No error repeats the text it was given, since the text may be a secret.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use zeroize::Zeroizing;

use crate::control::request::AppId;

/// Long enough that guessing is hopeless at any request rate, short enough to type in a test set-up.
const SECRET_LEN_MIN: usize = 16;

/// Ids stand in URLs and log lines; 64 characters hold a SHA-256 in hexadecimal.
const APP_ID_LEN_MAX: usize = 64;

/// The bearer token of an application. Has no readable `Debug` and no comparison, and is wiped from memory
/// when dropped. The copies of the kernel and of clap (the command line, the environment)
/// are beyond its reach: prefer a file that only the server's user can read.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret itself: for the API, which keeps its digest, and for the two places that must show the one of
    /// a development app, the banner at start-up and the demo page.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() < SECRET_LEN_MIN {
            return Err(format!(
                "the secret is too short; use at least {SECRET_LEN_MIN} characters, such as `openssl rand -hex 32` prints"
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the secret must be visible ASCII without spaces, as a bearer token is".into());
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

/// One tenant: who may call the API, and for which sessions.
#[derive(Debug, Clone)]
pub struct App {
    pub id: AppId,
    pub secret: Secret,
}

impl App {
    /// An app for a first try of the server, from bytes of the operating system's generator.
    pub fn development(random_id: [u8; 16], random_secret: [u8; 32]) -> Self {
        Self { id: AppId(hex(&random_id)), secret: Secret(Zeroizing::new(hex(&random_secret))) }
    }
}

impl FromStr for App {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((id, secret)) = text.split_once(':') else {
            return Err("no colon found; write it as ID:SECRET".into());
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if id.is_empty() || id.len() > APP_ID_LEN_MAX || !id.bytes().all(legal) {
            return Err(format!("the id must be 1 to {APP_ID_LEN_MAX} of A-Z, a-z, 0-9, _ and -"));
        }
        Ok(Self { id: AppId(id.to_owned()), secret: secret.parse()? })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One item of a list of cores: `3`, or `0-7` with both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreRange(pub RangeInclusive<usize>);

impl FromStr for CoreRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self(first..=last)),
            _ => Err("not a list of cores; write it like 0,2-3".into()),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// How shards reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    Auto,
    Udp,
    Uring,
    Xdp,
}

/// How shards are chosen for new sessions.
pub use crate::control::shards::Placement;

/// Whether `/demo` is served. `auto` serves it beside a development app only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Demo {
    Auto,
    On,
    Off,
}

/// `30s`, `500ms`, `2m`, `1h`; zero is a legal wait.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "not a duration; write a whole number with its unit, like 500ms, 30s, 2m or 1h";
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).ok_or(WRONG)?;
    let (digits, unit) = text.split_at_checked(digits_end).ok_or(WRONG)?;
    let number: u64 = digits.parse().map_err(|_| WRONG)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(WRONG.into()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| WRONG.into())
}

/// A [`wait`] that is not zero: a timeout of zero would end every session as it begins.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match wait(text)? {
        Duration::ZERO => Err("a timeout must be longer than zero, like 30s".into()),
        duration => Ok(duration),
    }
}

/// A whole number in `range`.
pub(super) fn within<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number
            .and_then(|number: u64| T::try_from(number).ok())
            .ok_or_else(|| format!("not a whole number from {} to {}", range.start(), range.end()))
    }
}

/// As [`within`], where 0 turns something off.
pub(super) fn zero_or_within<T: TryFrom<u64> + Default>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    let within = within(range);
    move |text| match text {
        "0" => Ok(T::default()),
        _ => within(text).map_err(|why| format!("{why}, nor 0")),
    }
}

pub(super) fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address with a port; write it like 127.0.0.1:8080 or [::1]:8080".into())
}

pub(super) fn ip_addr(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "not an IP address; write it like 192.0.2.7 or 2001:db8::7".into())
}

/// An address that a client can send to.
pub(super) fn unicast_addr(text: &str) -> Result<IpAddr, String> {
    let ip = ip_addr(text)?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err("clients cannot send to it; give an address of this host, or of the NAT before it".into());
    }
    Ok(ip)
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("use true or false".into()),
    }
}

/// Directives of `tracing_subscriber::EnvFilter`. A lone word must be a level: the filter itself would
/// take a misspelt level for the name of a module, and log nothing.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let wrong =
        || "use error, warn, info, debug, trace or off, or directives like info,fanline::control=debug";
    let level = |item: &str| !item.is_empty() && item.parse::<LevelFilter>().is_ok();
    let misspelt = |item: &str| !item.contains(['=', '[']) && !level(item);
    if text.split(',').any(misspelt) || EnvFilter::builder().parse(text).is_err() {
        return Err(wrong().into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn a_secret_never_shows_itself() {
        let app: App = format!("demo:{SECRET}").parse().unwrap();
        assert_eq!(format!("{app:?}"), r#"App { id: AppId("demo"), secret: Secret(…) }"#);
        for bad in [format!("demo:{}", &SECRET[1..]), SECRET.into(), format!("d mo:{SECRET}")] {
            let error = bad.parse::<App>().unwrap_err();
            assert!(!error.contains(&SECRET[1..]), "{error}");
        }
    }

    #[test]
    fn a_development_app_has_a_32_digit_id_and_a_64_digit_secret() {
        let app = App::development([0xab; 16], [0xcd; 32]);
        assert_eq!(app.id.0, "ab".repeat(16));
        assert_eq!(app.secret.reveal(), "cd".repeat(32));
    }

    #[test]
    fn app_ids_are_limited_in_length_and_alphabet() {
        for good in ["a", "A-b_9", &"x".repeat(64)] {
            assert!(format!("{good}:{SECRET}").parse::<App>().is_ok(), "{good}");
        }
        for bad in ["", "a.b", "ä", &"x".repeat(65)] {
            assert!(format!("{bad}:{SECRET}").parse::<App>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(wait("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(wait("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(wait("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(wait("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(wait("0s"), Ok(Duration::ZERO));
        for bad in
            ["", "30", "s", "-1s", "1.5s", "1 s", "1d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(wait(bad).is_err(), "{bad}");
        }
        assert!(timeout("0ms").is_err());
    }

    #[test]
    fn a_core_list_item_is_a_number_or_an_ascending_range() {
        assert_eq!("3".parse(), Ok(CoreRange(3..=3)));
        assert_eq!("0-7".parse(), Ok(CoreRange(0..=7)));
        for bad in ["", "a", "3-", "-3", "7-0", "1-2-3"] {
            assert!(bad.parse::<CoreRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_log_level_is_refused() {
        for good in ["info", "WARN", "off", "info,fanline::control=debug", "fanline[session]=trace"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["", "debgu", "info,fanline", "fanline=loud"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clients_cannot_be_sent_to_a_wildcard_or_a_group() {
        assert!(unicast_addr("192.0.2.7").is_ok());
        for bad in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "host.example"] {
            assert!(unicast_addr(bad).is_err(), "{bad}");
        }
    }
}
