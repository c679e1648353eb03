//! What `room` and `capacity` have in common: the server, the speakers, the generator, the report.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::BenchError;
use super::addresses::Prefix;
use super::description::Kind;
use super::speaker::{ENCODINGS, Encoding, Shape};
use crate::config::CoreRange;

/// The server, the speakers, the generator, the report.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// API of the server to measure, like http://127.0.0.1:8080/v1 [default: a server of this program, started
    /// for the measurement]
    #[arg(long, value_name = "URL", requires_all = ["app_id", "app_secret"], help_heading = "Server")]
    pub api: Option<String>,

    /// Application on that server
    #[arg(long, value_name = "ID", requires = "api", help_heading = "Server")]
    pub app_id: Option<String>,

    /// Its bearer token
    #[arg(long, value_name = "SECRET", requires = "api", help_heading = "Server")]
    pub app_secret: Option<String>,

    /// Process id of that server, if it runs on this host: to measure its CPU time and memory
    #[arg(long, value_name = "PID", requires = "api", help_heading = "Server")]
    pub server_pid: Option<u32>,

    /// Cores of the server, like 0,2-3 [default: the first core]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Server")]
    server_cores: Vec<CoreRange>,

    /// More flags for the server that is started, after `--`: like -- --io uring
    #[arg(last = true, value_name = "FLAGS", help_heading = "Server")]
    pub server_flags: Vec<String>,

    /// Clients that publish; every listener hears all of them
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    #[arg(help_heading = "Speakers")]
    pub speakers: u16,

    /// What each of them publishes
    #[arg(long, value_name = "MEDIA", value_enum, default_value_t = Media::Audio, help_heading = "Speakers")]
    pub media: Media,

    /// When the frames of several speakers are due
    #[arg(long, value_name = "PHASE", value_enum, default_value_t = Phase::Spread, help_heading = "Speakers")]
    pub phase: Phase,

    /// Length of an audio packet, 50 of which are sent per second: its UDP payload, with RTP header and tag
    #[arg(long, value_name = "BYTES", default_value = "120", help_heading = "Speakers")]
    #[arg(value_parser = clap::value_parser!(u16).range(Shape::PACKET_BYTES_MIN as i64..=1_400))]
    pub audio_packet_bytes: u16,

    /// Speak half of the time and be silent as Opus is with DTX, in turns of 2 s
    #[arg(long, help_heading = "Speakers")]
    pub dtx: bool,

    /// Bitrate of video, beside its key frames
    #[arg(long, value_name = "KBPS", default_value = "2500", help_heading = "Speakers")]
    #[arg(value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub video_kbps: u32,

    /// Frames of video per second; each is a burst of equal packets
    #[arg(long, value_name = "FPS", default_value = "30", help_heading = "Speakers")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=240))]
    pub video_fps: u16,

    /// Seconds from key frame to key frame, beside those that are asked for; 0 for none
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = "Speakers")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=3_600))]
    pub key_frame_seconds: u16,

    /// Publish video as a simulcast of three encodings, f, h and q: --video-kbps, a quarter, and a sixteenth of it
    #[arg(long, help_heading = "Speakers")]
    pub simulcast: bool,

    /// The encoding of a simulcast that listeners ask for, and that is counted
    #[arg(long, value_name = "RID", default_value = "f", requires = "simulcast", help_heading = "Speakers")]
    #[arg(value_parser = ENCODINGS.map(|encoding| encoding.rid))]
    pub rid: String,

    /// Lose so many of the speakers' packets on their way to the server, in percent; what is retransmitted arrives
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent, help_heading = "Speakers")]
    pub speaker_loss: f64,

    /// Listeners that join per second
    #[arg(long, value_name = "N", default_value = "200", help_heading = "Listeners")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub joins_per_second: u32,

    /// Of how many listeners one decrypts every packet
    #[arg(long, value_name = "N", default_value = "20", help_heading = "Listeners")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sample: u32,

    /// Cores of the generator, one thread each [default: all but the server's]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Generator")]
    generator_cores: Vec<CoreRange>,

    /// What is between the server and its clients. veth: a server of this program's own and the clients are each in
    /// a network namespace of their own, made for the measurement
    #[arg(long, value_name = "LINK", value_enum, default_value_t = Link::Host, help_heading = "Generator")]
    #[arg(conflicts_with = "api")]
    pub link: Link,

    /// Count the packets of all listeners but the sampled ones in XDP, before they cost the generator anything;
    /// speakers then pause before and after a measurement. For rooms that no generator could receive
    #[arg(long, help_heading = "Generator")]
    pub sink: bool,

    /// Addresses of the clients, local to this host: one for each client of a thread
    #[arg(long, value_name = "PREFIX", default_value = "127.64.0.0/10", help_heading = "Generator")]
    pub client_net: Prefix,

    /// The one of the server's addresses to send to [default: the first that the clients' addresses reach]
    #[arg(long, value_name = "IP", help_heading = "Generator")]
    pub server_address: Option<IpAddr>,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub json: Option<PathBuf>,

    /// Write the report with plots, as one HTML file
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub html: Option<PathBuf>,
}

/// What a speaker publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Media {
    Audio,
    Video,
    Both,
}

/// What is between the server and its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Link {
    /// What this host has: loopback, unless --client-net is elsewhere
    Host,
    Veth,
}

/// When the frames of several speakers are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Spread evenly over the interval from frame to frame
    Spread,
    /// All at once
    Together,
}

/// UDP payload that passes every path; what browsers send at most.
const VIDEO_PACKET_BYTES: usize = 1_200;

impl Common {
    /// The tracks that each speaker publishes.
    pub fn shapes(&self) -> Vec<Shape> {
        let shape = |kind, packet_bytes| Shape {
            kind,
            packet_bytes,
            dtx: self.dtx,
            video_bps: u64::from(self.video_kbps) * 1_000,
            frames_per_second: self.video_fps.into(),
            key_frame_interval_us: u64::from(self.key_frame_seconds) * 1_000_000,
            encoding: None,
            loss: self.speaker_loss / 100.0,
        };
        let audio = shape(Kind::Audio, self.audio_packet_bytes.into());
        let video = shape(Kind::Video, VIDEO_PACKET_BYTES);
        match self.media {
            Media::Audio => vec![audio],
            Media::Video => vec![video],
            Media::Both => vec![audio, video],
        }
    }

    /// Whether the flags make sense together.
    pub fn check(&self) -> Result<(), BenchError> {
        if self.simulcast && self.media == Media::Audio {
            return Err(BenchError("--simulcast is of video: add --media video or --media both".to_owned()));
        }
        Ok(())
    }

    /// The encodings in which a track of this shape is published, from the best on; none if it is no simulcast.
    pub fn encodings(&self, shape: &Shape) -> Vec<Encoding> {
        let is_simulcast = self.simulcast && shape.kind == Kind::Video;
        if is_simulcast { ENCODINGS.to_vec() } else { Vec::new() }
    }

    /// By how much the frames of a speaker are due after those of the first, in µs.
    pub fn phase_us(&self, speaker: u16, shape: &Shape) -> u64 {
        match self.phase {
            Phase::Spread => shape.frame_interval_us() * u64::from(speaker) / u64::from(self.speakers),
            Phase::Together => 0,
        }
    }

    /// The cores of the server and those of the generator, of the ones that this process may use.
    pub fn cores(&self) -> Result<(Vec<usize>, Vec<usize>), BenchError> {
        let usable: Vec<_> = core_affinity::get_core_ids().unwrap_or_default();
        let usable: Vec<_> = usable.into_iter().map(|core| core.id).collect();
        let server = chosen("--server-cores", &self.server_cores, &usable)?;
        let server = if server.is_empty() { usable.iter().take(1).copied().collect() } else { server };
        let generator = chosen("--generator-cores", &self.generator_cores, &usable)?;
        let others: Vec<_> = usable.iter().copied().filter(|core| !server.contains(core)).collect();
        match (generator.is_empty(), others.is_empty()) {
            (false, _) => Ok((server, generator)),
            (true, false) => Ok((server, others)),
            // One core for both: the figures say so by how busy it is.
            (true, true) => Ok((server.clone(), server)),
        }
    }

    /// Whether clients at our addresses reach `address`.
    pub fn reaches(&self, address: IpAddr) -> bool {
        match self.server_address {
            Some(chosen) => address == chosen,
            None => {
                address.is_ipv6() == self.client_net.is_ipv6()
                    && address.is_loopback() == self.client_net.is_loopback()
            }
        }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=50.0).contains(&percent).then_some(percent).ok_or_else(|| "it takes 0 to 50".to_owned())
}

fn chosen(flag: &str, ranges: &[CoreRange], usable: &[usize]) -> Result<Vec<usize>, BenchError> {
    let mut cores = Vec::new();
    for core in ranges.iter().flat_map(|range| range.0.clone()) {
        if !usable.contains(&core) {
            return Err(BenchError(format!("{flag}: core {core} is not there; choose from {usable:?}")));
        }
        if !cores.contains(&core) {
            cores.push(core);
        }
    }
    Ok(cores)
}
