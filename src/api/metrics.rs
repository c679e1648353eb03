//! `/metrics`: the numbers of shards, control and HTTP in the OpenMetrics text format.
//!
//! Everything but the HTTP numbers is gathered by value at the moment of the scrape: the latest
//! snapshot of each shard and a census of control. There is no registry that a packet could touch.
//! Without authentication, as scrapers expect: keep the port away from strangers.

use std::fmt;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::ApiState;
use super::error::Refusal;
use crate::control::request::{Census, ErrorCode};
use crate::stats::ShardSnapshot;

/// In seconds. Operations that wait for a transport or a packet take up to 10 s by design.
const REQUEST_BOUNDS_S: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// What HTTP counts about itself. Clones share their numbers.
#[derive(Debug, Clone)]
pub(super) struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<EndpointLabel, Histogram, fn() -> Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: String,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let empty: fn() -> Histogram = || Histogram::new(REQUEST_BOUNDS_S);
        Self { requests: Family::default(), durations: Family::new_with_constructor(empty) }
    }
}

impl HttpMetrics {
    pub(super) fn observe(&self, endpoint: &str, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { endpoint: endpoint.into(), status }).inc();
        self.durations
            .get_or_create(&EndpointLabel { endpoint: endpoint.into() })
            .observe(took.as_secs_f64());
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "API requests by route below the app and by status",
            self.requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time from a request's head to its answer; pulls wait for the publisher by design",
            self.durations.clone(),
        );
    }
}

/// `GET /metrics`. Control's gauges are left out when it does not answer.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    operation_id = "metrics",
    summary = "The server's numbers, for Prometheus",
    description = "",
    security(()),
    responses(
        (status = 200, description = "OpenMetrics text", body = String,
         content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")
    )
)]
pub(super) async fn page(State(api): State<ApiState>) -> Response {
    let scrape = Scrape { shards: api.snapshots.all(), census: api.census().await };
    let mut registry = Registry::with_prefix("fanline");
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of the server", version);
    registry.register_collector(Box::new(scrape));
    api.http.register(&mut registry);
    let mut text = String::new();
    if text::encode(&mut text, &registry).is_err() {
        return Refusal::new(ErrorCode::InternalError, "the metrics could not be written").into_response();
    }
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (StatusCode::OK, [(CONTENT_TYPE, OPENMETRICS)], text).into_response()
}

/// The values of one scrape.
#[derive(Debug)]
struct Scrape {
    shards: Vec<ShardSnapshot>,
    census: Option<Census>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_control(&mut encoder)?;
        for (name, help, value) in SHARD_COUNTERS {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            self.encode_per_shard(metric, |shard| ConstCounter::new(value(shard)))?;
        }
        for (name, help, value) in SHARD_GAUGES {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            self.encode_per_shard(metric, |shard| ConstGauge::new(value(shard)))?;
        }
        self.encode_bandwidths(&mut encoder)?;
        self.encode_busy(&mut encoder)?;
        self.encode_drops(&mut encoder)?;
        self.encode_turns(&mut encoder)
    }
}

impl Scrape {
    fn encode_control(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(census) = self.census else { return Ok(()) };
        for (name, help, value) in CONTROL_GAUGES {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value(&census)).encode(metric)?;
        }
        let help = "SRTP or SRTCP that a transport tried to send by itself; not 0 is a bug: report it";
        let metric = encoder.encode_descriptor("transport_media_dropped", help, None, MetricType::Counter)?;
        ConstCounter::new(census.transport_media_dropped).encode(metric)
    }

    fn encode_per_shard<M: EncodeMetric>(
        &self,
        mut metric: MetricEncoder<'_>,
        value: impl Fn(&ShardSnapshot) -> M,
    ) -> fmt::Result {
        self.shards
            .iter()
            .try_for_each(|shard| value(shard).encode(metric.encode_family(&[("shard", shard.shard.0)])?))
    }

    fn encode_bandwidths(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Subscribers of video whose path is estimated to carry at most so many bits per second";
        let mut metric =
            encoder.encode_descriptor("subscribers_by_bandwidth", help, None, MetricType::Gauge)?;
        for shard in &self.shards {
            for (bound, count) in shard.available_bps.cumulative() {
                let bound = bound.map_or("+Inf".to_owned(), |bps| bps.to_string());
                let labels = (&[("shard", shard.shard.0)][..], &[("up_to_bps", bound)][..]);
                ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_busy(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time the shard spent in turns with work; its rate is the shard's utilisation";
        let metric = encoder.encode_descriptor("busy_seconds", help, None, MetricType::Counter)?;
        self.encode_per_shard(metric, |shard| ConstCounter::new(shard.busy_us as f64 / 1e6))
    }

    fn encode_drops(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Datagrams, packets or requests for them let go, by reason";
        let mut metric = encoder.encode_descriptor("drops", help, None, MetricType::Counter)?;
        for shard in &self.shards {
            for (reason, count) in shard.drops.iter() {
                let labels = (&[("shard", shard.shard.0)][..], &[("reason", reason.as_str())][..]);
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_turns(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Duration of the turns of a shard's loop that had work; a packet waits at most one turn";
        let mut metric =
            encoder.encode_descriptor("turn_duration_seconds", help, None, MetricType::Histogram)?;
        for shard in &self.shards {
            let in_seconds = |us: u64| us as f64 / 1e6;
            let buckets: Vec<_> = shard
                .turn_us
                .buckets()
                .map(|(bound_us, turns)| (bound_us.map_or(f64::INFINITY, in_seconds), turns))
                .collect();
            let count = buckets.iter().map(|&(_, turns)| turns).sum();
            metric.encode_family(&[("shard", shard.shard.0)])?.encode_histogram::<NoLabelSet>(
                in_seconds(shard.busy_us),
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Name without prefix, help text, and where the value is found.
type Column<T> = (&'static str, &'static str, fn(&T) -> u64);

const CONTROL_GAUGES: [Column<Census>; 5] = [
    ("sessions", "Sessions that exist", |c| c.sessions),
    ("sessions_connected", "Sessions whose transport is connected", |c| c.sessions_connected),
    ("tracks", "Published tracks", |c| c.tracks),
    ("subscriptions", "Subscriptions to tracks", |c| c.subscriptions),
    ("data_channels", "Data channels published and subscribed to", |c| c.data_channels),
];

const SHARD_COUNTERS: [Column<ShardSnapshot>; 19] = [
    ("datagrams_received", "UDP datagrams received, of every kind", |s| s.datagrams_received),
    ("bytes_received", "UDP payload bytes received", |s| s.bytes_received),
    ("datagrams_sent", "UDP datagrams sent; each segment of a segmented send counts", |s| s.datagrams_sent),
    ("bytes_sent", "UDP payload bytes sent", |s| s.bytes_sent),
    ("sends", "Kernel calls that sent; datagrams sent per call is the gain of batching", |s| s.sends),
    ("rtp_packets_received", "RTP packets decrypted that belong to a track", |s| s.rtp_packets_received),
    ("rtp_packets_sent", "RTP packets sealed for subscribers, retransmissions included", |s| {
        s.rtp_packets_sent
    }),
    ("rtcp_received", "SRTCP datagrams decrypted", |s| s.rtcp_received),
    ("rtcp_sent", "SRTCP datagrams sent", |s| s.rtcp_sent),
    ("punted", "STUN and DTLS datagrams passed to the control thread", |s| s.punted),
    ("retransmissions_sent", "Packets sent again because a subscriber asked", |s| s.retransmissions_sent),
    ("probe_packets_sent", "Packets sent again to probe what a subscriber's path carries", |s| {
        s.probe_packets_sent
    }),
    ("paced_packets_sent", "Packets of video that waited for their subscriber's pacer, of those sent", |s| {
        s.paced_packets_sent
    }),
    ("catch_ups", "Subscriptions of video that began with a key frame from the track ring", |s| s.catch_ups),
    ("nacks_received", "Packets that subscribers asked for again", |s| s.nacks_received),
    ("nacks_sent", "Packets that publishers were asked for again", |s| s.nacks_sent),
    ("plis_received", "Key frame requests from subscribers, before coalescing", |s| s.plis_received),
    ("plis_sent", "Key frame requests to publishers, after coalescing", |s| s.plis_sent),
    ("turns", "Turns of the shard's loop", |s| s.turns),
];

const SHARD_GAUGES: [Column<ShardSnapshot>; 3] = [
    ("shard_sessions", "Sessions that the shard holds", |s| s.sessions),
    ("publications", "Tracks whose publisher is on the shard", |s| s.publications),
    ("legs", "Subscriptions that the shard serves", |s| s.legs),
];
