//! The whole server past the kernel's IP stack: the program on one host, clients on another, a cable between them.

use std::fs;

use str0m::media::MediaKind;

use crate::client::Client;
use crate::netns::{Cable, FAR_V4, FAR_V6, NEAR, NEAR_V4, NEAR_V6, output, run, unplugged};
use crate::peer::Peer;
use crate::server::Server;

/// A client on the far host.
async fn far_client<'a>(cable: &Cable, server: &'a Server, ip: &str) -> Client<'a> {
    let socket = cable.far.within(|| std::net::UdpSocket::bind((ip, 0))).unwrap();
    Client::of(server, Peer::on(socket)).await
}

/// Datagrams that the near host's stack has sent from sockets, IPv4.
fn sent_by_the_stack() -> u64 {
    let counters = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let at = lines.next().unwrap().split(' ').position(|name| name == "OutDatagrams").unwrap();
    lines.next().unwrap().split(' ').nth(at).unwrap().parse().unwrap()
}

#[tokio::test]
async fn media_of_real_sessions_goes_past_the_stack_and_nothing_stays_attached() {
    let Some(cable) = Cable::plug(1) else { return };
    let server = Server::bound_to(
        "::",
        &["--io", "xdp", "--interface", NEAR, "--advertise", &format!("{NEAR_V4},{NEAR_V6}")],
    );
    if !output(&format!("ip link show {NEAR}")).unwrap().contains("xdp") {
        eprintln!("skipped: this kernel gives no AF_XDP; the server has said why");
        return;
    }
    let publisher = far_client(&cable, &server, FAR_V4).await;
    publisher.push(&[(MediaKind::Audio, "mic")]).await;
    for ip in [FAR_V4, FAR_V6] {
        let listener = far_client(&cable, &server, ip).await;
        let mid = listener.pull_one(&publisher, "mic").await;
        listener.peer.hears(&mid, "mic").await;
        let before = sent_by_the_stack();
        listener.peer.hears_times(&mid, "mic", 100).await;
        assert!(sent_by_the_stack() - before < 10, "the stack sends the media");
    }
    drop(server);
    for _ in 0..200 {
        if !output(&format!("ip link show {NEAR}")).unwrap().contains("xdp") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the program of a killed server is still attached");
}

#[tokio::test]
async fn a_host_without_ethernet_is_served_by_sockets() {
    let Some(_host) = unplugged() else { return };
    let server = Server::with(&["--io", "xdp"]);
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&publisher, "mic").await;
    listener.peer.hears(&mid, "mic").await;
}

#[tokio::test]
async fn a_route_through_the_cable_serves_clients_behind_a_gateway() {
    let Some(cable) = Cable::plug(1) else { return };
    cable.far.within(|| run("ip address add 10.88.0.1/32 dev lo")).unwrap();
    run(&format!("ip route add 10.88.0.0/24 via {FAR_V4}")).unwrap();
    let server = Server::bound_to(NEAR_V4, &["--io", "auto", "--interface", NEAR]);
    let publisher = far_client(&cable, &server, "10.88.0.1").await;
    publisher.push(&[(MediaKind::Audio, "mic")]).await;
    let listener = far_client(&cable, &server, "10.88.0.1").await;
    let mid = listener.pull_one(&publisher, "mic").await;
    listener.peer.hears(&mid, "mic").await;
}
